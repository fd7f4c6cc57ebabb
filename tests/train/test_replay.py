"""What stage 1 learns beside answers to spoken questions: their words, and written ones."""

import numpy as np
import pytest
import torch

from llama_omni.errors import ConfigError, InputError
from llama_omni.interfaces import Turn
from llama_omni.prompt import IGNORE, SPEECH_TOKEN
from llama_omni.train.collate import TRANSCRIBE
from llama_omni.train.replay import WrittenQuestions
from llama_omni.train.stage_settings import StageOneSettings
from llama_omni.train.stages import Start, train_stage_one
from tests.data.data_tools import make_dataset, make_row
from tests.train.talk import RUN, example, examples, loss_of, stage_one, talking_model, turn


def answers(batch, tokenizer) -> list[str]:
    """What the labels of each row say."""
    rows = [row[row != IGNORE].tolist() for row in batch["labels"]]
    return [tokenizer.decode(row).removesuffix("<|eot_id|>") for row in rows]


def test_all_rows_ask_for_their_words_without_what_was_said_before():
    model, tokenizer = talking_model()
    task = stage_one(model, tokenizer, transcribe_share=1.0, text_share=1.0)
    rows = [example(3, history=(turn(1), turn(2)))]
    batch = task.collate(rows)
    assert answers(batch, tokenizer) == ["q3"]
    assert len(batch["mel"]) == 1  # what is to be written down is never given in writing
    asked = [Turn(role="system", text=TRANSCRIBE), Turn(role="user", audio=rows[0].audio)]
    prompt = task.collate.prompt(asked)
    assert batch["input_ids"][0, : len(prompt)].tolist() == prompt
    assert prompt.count(SPEECH_TOKEN) == 1
    assert torch.isfinite(loss_of(task, rows))


def test_a_share_of_the_rows_does_and_named_rows_always_do():
    model, tokenizer = talking_model()
    task = stage_one(model, tokenizer, transcribe_share=0.5)
    np.random.seed(0)
    said = answers(task.collate(examples(16)), tokenizer)
    assert 2 < sum(text.startswith("q") for text in said) < 14
    plain = stage_one(model, tokenizer)
    object.__setattr__(plain.collate, "transcribed", frozenset({"sample-1"}))
    assert answers(plain.collate(examples(3)), tokenizer) == ["ax", "q1", "cz"]
    assert answers(task._judge(examples(2)), tokenizer) == ["ax", "by"]  # is judged by its answers


def test_teacher_reads_the_same_task():
    model, tokenizer = talking_model()
    task = stage_one(model, tokenizer, transcribe_share=1.0, distill_weight=1.0)
    batch = task.collate(examples(2))
    labels = batch["written_labels"]
    assert answers({"labels": labels}, tokenizer) == ["q0", "q1"]
    assert torch.isfinite(loss_of(task, examples(2)))


def test_splits_without_answers_are_learnt_beside_the_questions(tmp_path):
    model, tokenizer = talking_model()
    words = [[make_row(number, "words") for number in range(10, 13)]]
    make_dataset(tmp_path / "data", {"train": [[make_row(n) for n in range(3)]], "words": words})
    settings = StageOneSettings(
        **{**RUN, "batch_size": 6, "max_steps": 2}, transcribe_splits=("words",)
    )
    start = Start(model=model, tokenizer=tokenizer)
    result = train_stage_one(start, tmp_path / "data", settings, tmp_path / "run")
    assert result.done
    fixed = (tmp_path / "run/settings.json").read_text()
    assert '"data_rows": 6' in fixed
    unknown = StageOneSettings(**RUN, transcribe_splits=("speech",))
    with pytest.raises(InputError, match=r"no split 'speech' in .*; it has train"):
        train_stage_one(start, tmp_path / "data", unknown, tmp_path / "other")


def test_written_questions_are_learnt_beside_the_spoken_ones(tmp_path):
    model, tokenizer = talking_model()
    make_dataset(tmp_path / "data", {"train": [[make_row(n) for n in range(3)]]})
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(f'{{"question": "w{n}", "answer": "a{n}"}}\n' for n in range(9)))
    fields = {**RUN, "batch_size": 7, "max_steps": 1, "augment": True, "transcribe_share": 1.0}
    settings = StageOneSettings(**fields, text_source=str(texts), text_rows=4)
    start = Start(model=model, tokenizer=tokenizer)
    assert train_stage_one(start, tmp_path / "data", settings, tmp_path / "run").done
    assert '"data_rows": 7' in (tmp_path / "run/settings.json").read_text()
    texts.write_text('{"question": "why?"}\n')
    with pytest.raises(InputError, match="answer"):
        train_stage_one(start, tmp_path / "data", settings, tmp_path / "other")


def test_written_questions_are_never_spoken_nor_written_down():
    model, tokenizer = talking_model()
    task = stage_one(model, tokenizer, transcribe_share=1.0)
    silent = example(1, audio=np.zeros(0, np.float32), written=True, history=(turn(2),))
    batch = task.collate([example(0), silent])
    assert answers(batch, tokenizer) == ["q0", "by"]
    assert len(batch["mel"]) == 1
    assert "mel" not in task.collate([silent])
    varied = stage_one(model, tokenizer, augment=True).collate([example(0), silent])
    assert answers(varied, tokenizer)[-1] == "by"  # lends no babble to the others


def test_tiny_world_is_a_source_that_never_ends_the_same():
    rows = WrittenQuestions("tiny", limit=5, seed=3)
    assert len(rows) == len(set(rows.ids)) == 5
    assert all(rows[number].written and rows[number].answer for number in range(5))
    assert rows.seconds.tolist() == pytest.approx([len(rows[n].question) / 15 for n in range(5)])
    other = WrittenQuestions("tiny", limit=5, seed=4)
    assert [row.question for row in other] != [row.question for row in rows]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"transcribe_share": 1.5}, "transcribe_share must be 0 to 1, got 1.5"),
        (
            {"transcribe_splits": ("words",), "feature_cache": "cache"},
            "feature_cache must be empty with transcribe_splits or text_source",
        ),
        ({"text_rows": -1}, "text_rows must be at least 0, got -1"),
    ],
)
def test_settings_that_cannot_be_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        StageOneSettings(**fields)
