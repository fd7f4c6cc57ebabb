import copy
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig

from llama_omni.data.records import Exchange, Record
from llama_omni.errors import CheckpointError, ConfigError, InputError, TrainingError
from llama_omni.model.tokenizer import load_tokenizer
from llama_omni.prompt import IGNORE, prompt_template
from llama_omni.train.lm import LMSettings, LMTask, train_lm
from llama_omni.train.runner import train
from llama_omni.train.settings import TrainSettings
from llama_omni.train.text_rows import TextRows
from llama_omni.train.tokenizer import train_tokenizer

TEMPLATE = prompt_template("compact")
CAPITALS = {"France": "Paris", "Italy": "Rome", "Peru": "Lima", "Cuba": "Havana"}
RECORDS = [
    Record(id=f"{n}-{c}", question=q.format(c), answer=a.format(c, CAPITALS[c]), intent=intent)
    for n, (q, a, intent) in enumerate(
        [
            ("What is the capital of {}?", "The capital of {} is {}.", "capital"),
            ("Tell me the capital of {}!", "It is {1}.", "capital"),
            ("Where is {}?", "I do not know where {} is.", "place"),
        ]
    )
    for c in CAPITALS
] + [
    Record(
        id=f"follow-{c}",
        question="And its capital?",
        answer=f"{city}.",
        history=(Exchange(question=f"Do you like {c}?", answer="Yes."),),
        intent="follow",
    )
    for c, city in CAPITALS.items()
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    texts = [text for record in RECORDS for text in (record.question, record.answer)]
    folder = tmp_path_factory.mktemp("tokenizer")
    return train_tokenizer(texts, folder, num_tokens=320, vocab_size=330)


def small_config():
    return LlamaConfig(
        vocab_size=330,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=64,
        max_position_embeddings=128,
        bos_token_id=320,
        eos_token_id=[321, 325, 326],
        pad_token_id=322,
    )


def task_for(tokenizer, **settings):
    torch.manual_seed(0)
    task = LMTask(
        small_config(),
        tokenizer,
        TEMPLATE,
        held_out={"same": RECORDS},
        settings=LMSettings(max_new_tokens=40, **settings),
    )
    return task, TextRows.of_records(RECORDS, tokenizer, TEMPLATE)


def settings_for(**changes):
    values = {"batch_size": 16, "max_steps": 150, "learning_rate": 1e-2, "eval_every": 0}
    return TrainSettings(**{**values, "device": "cpu", "tensorboard": False, **changes})


def test_model_learns_sixteen_pairs_by_heart(tokenizer, tmp_path):
    rows = TextRows.of_records(RECORDS, tokenizer, TEMPLATE)
    result = train_lm(
        rows,
        tmp_path,
        config=small_config(),
        tokenizer=tokenizer,
        template=TEMPLATE,
        settings=LMSettings(max_new_tokens=40),
        training=settings_for(),
        held_out={"same": RECORDS},
    )
    assert result.metrics["accuracy"] == result.metrics["accuracy_same/follow"] == 1.0
    assert result.metrics["loss"] < 0.1
    assert len((tmp_path / "samples/step-150.jsonl").read_text().splitlines()) == len(RECORDS)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "final")
    assert model.config.eos_token_id == [321, 325, 326]
    assert load_tokenizer(tmp_path / "final").encode("Paris") == tokenizer.encode("Paris")


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_resumed_run_gives_the_same_weights(tokenizer, tmp_path, optimizer):
    def run(folder, **changes):
        task, rows = task_for(tokenizer)
        changes = {"max_steps": 6, "batch_size": 4, "optimizer": optimizer, **changes}
        result = train(task, rows, rows.lengths, settings_for(**changes), tmp_path / folder)
        return task.model.state_dict(), result

    whole, _ = run("whole")
    assert not run("cut", stop_after_s=1e-9)[1].done
    resumed, _ = run("cut")
    for name, value in whole.items():
        assert torch.equal(resumed[name], value), name


def test_answers_alone_are_labelled(tokenizer):
    row = TextRows.of_records(RECORDS[-1:], tokenizer, TEMPLATE)[0]
    said = tokenizer.decode([int(i) for i in row.labels if i != IGNORE])
    assert said == "Yes.Havana."
    assert row.labels[-1] == row.ids[-1] == tokenizer.inner.eos_token_id


def test_loss_does_not_depend_on_padding(tokenizer):
    task, rows = task_for(tokenizer)
    parts = [task.collate([rows[row]]) for row in range(len(rows))]
    whole = task.collate([rows[row] for row in range(len(rows))])
    total = torch.tensor(float(sum(task.count(part) for part in parts)))
    assert task.count(whole) == int(total)
    apart = sum(task.loss(part, total).loss for part in parts)
    torch.testing.assert_close(task.loss(whole, total).loss, apart, atol=1e-4, rtol=1e-5)


def test_loss_is_the_models_own(tokenizer):
    task, rows = task_for(tokenizer)
    row = task.collate([rows[0]])
    expected = task.model(row["ids"], labels=row["labels"]).loss
    found = task.loss(row, torch.tensor(float(task.count(row)))).loss
    torch.testing.assert_close(found, expected)


def test_question_weight_of_one_learns_everything(tokenizer):
    task, rows = task_for(tokenizer, question_weight=1.0)
    row = task.collate([rows[0]])
    expected = task.model(row["ids"], labels=row["ids"]).loss * (row["ids"].shape[1] - 1)
    found = task.loss(row, torch.tensor(1.0))
    torch.testing.assert_close(found.loss, expected)
    assert set(found.numbers) == {"answers", "questions"}


def test_answers_are_those_of_one_question_at_a_time(tokenizer):
    task, _ = task_for(tokenizer)
    together = task.answer(RECORDS)
    assert together == [task.answer([record])[0] for record in RECORDS]


def test_documents_become_blocks_that_lose_nothing(tokenizer):
    texts = ["The capital of Peru is Lima.", "Rome", "I do not know where Cuba is."]
    rows = TextRows.of_documents(texts, tokenizer, block=8)
    joined = [int(i) for row in range(len(rows)) for i in rows[row].ids]
    end = tokenizer.inner.eos_token_id
    assert joined == [i for text in texts for i in [*tokenizer.encode(text), end]]
    assert set(rows.lengths[:-1].tolist()) == {8}
    assert rows.num_labels == len(joined)


def test_no_texts_are_refused(tokenizer):
    with pytest.raises(InputError, match="at least one text"):
        TextRows.of_records([], tokenizer, TEMPLATE)


def test_row_beyond_the_end_is_refused(tokenizer):
    _, rows = task_for(tokenizer)
    with pytest.raises(IndexError, match="must be below 16"):
        rows[16]


def test_a_run_begins_with_what_an_earlier_one_made(tokenizer, tmp_path):
    rows = TextRows.of_records(RECORDS, tokenizer, TEMPLATE)

    def run(name, start=None, **changes):
        return train_lm(
            rows,
            tmp_path / name,
            config=small_config(),
            tokenizer=tokenizer,
            template=TEMPLATE,
            settings=LMSettings(max_new_tokens=40),
            training=settings_for(**changes),
            held_out={"same": RECORDS},
            start=start,
        )

    first = run("first")
    second = run("second", tmp_path / "first" / "final", max_steps=1, learning_rate=1e-6)
    assert second.metrics["loss"] == pytest.approx(first.metrics["loss"], rel=0.05)
    with pytest.raises(TrainingError, match=r"got a run with start=None for /.*second/final"):
        run("first", tmp_path / "second" / "final")


def test_other_settings_texts_or_tokens_are_refused_in_a_run_that_began(tokenizer, tmp_path):
    wide = small_config()
    wide.intermediate_size = 96

    def run(records=RECORDS, words=tokenizer, config=None, **changes):
        return train_lm(
            TextRows.of_records(records, words, TEMPLATE),
            tmp_path / "run",
            config=config or small_config(),
            tokenizer=words,
            template=TEMPLATE,
            settings=LMSettings(**{"max_new_tokens": 4, **changes}),
            training=settings_for(max_steps=2, stop_after_s=1e-9),
            held_out={},
        )

    run()
    others = [*RECORDS[1:], replace(RECORDS[0], question="What is the capital of Spain?")]
    longer = copy.deepcopy(tokenizer)
    longer.inner.add_tokens(["another"])
    for changes, message in (
        ({"question_weight": 1.0}, "lm.question_weight=0.0 for 1.0"),
        ({"records": others}, "data_hash="),
        ({"words": longer}, "tokenizer_hash="),
        ({"config": wide}, "llm.intermediate_size=64 for 96"),
    ):
        with pytest.raises(TrainingError, match=f"got a run with {message}"):
            run(**changes)
    assert run(batch_size=3).done


def test_no_model_or_another_shape_to_begin_with_is_refused(tokenizer, tmp_path):
    wide = small_config()
    wide.hidden_size, wide.head_dim = 48, 24
    AutoModelForCausalLM.from_config(wide).save_pretrained(tmp_path / "wide")
    (tmp_path / "empty").mkdir()
    AutoModelForCausalLM.from_config(small_config()).save_pretrained(tmp_path / "words")
    other = copy.deepcopy(tokenizer)
    other.inner.add_tokens(["another"])
    other.inner.save_pretrained(tmp_path / "words")
    shutil.copytree(tmp_path / "words", tmp_path / "torn")
    weights = load_file(tmp_path / "torn/model.safetensors")
    weights.pop("model.norm.weight")
    save_file(weights, tmp_path / "torn/model.safetensors", metadata={"format": "pt"})
    rows = TextRows.of_records(RECORDS, tokenizer, TEMPLATE)
    for start, error, message in (
        ("wide", ConfigError, "wide must have the model's head_dim, 16, got 24"),
        ("words", ConfigError, "words must have the model's own tokens, got others"),
        ("torn", CheckpointError, "torn must hold tensor model.norm.weight, got none"),
        ("empty", CheckpointError, "empty must be a folder of Transformers, as a run's final"),
        ("none", CheckpointError, "none must be a folder of Transformers, as a run's final"),
    ):
        with pytest.raises(error, match=message):
            train_lm(
                rows,
                tmp_path / "run",
                config=small_config(),
                tokenizer=tokenizer,
                template=TEMPLATE,
                settings=LMSettings(),
                training=settings_for(),
                held_out={},
                start=tmp_path / start,
            )
