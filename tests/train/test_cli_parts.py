"""The commands for a model's parts, on other data sets and tokenisers than the tiny model's."""

import json

import pytest
from transformers import AutoConfig
from typer.testing import CliRunner

from llama_omni.cli_parts import train_app
from llama_omni.model.tokenizer import load_tokenizer
from llama_omni.train.tokenizer import train_tokenizer
from tests.data.data_tools import make_dataset, make_row

QUICK = ("max_steps=1", "batch_size=2", "tensorboard=false", "eval_every=1")
TEXTS = ["What is the capital of France?", "It is Paris.", "Where is Lima?", "In Peru."]
QUIET = [item for change in QUICK for item in ("--set", f"training.{change}")]


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    pairs = [{"question": q, "answer": a} for q, a in zip(TEXTS[::2], TEXTS[1::2], strict=True)]
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return path


def call(*arguments):
    result = CliRunner().invoke(train_app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


@pytest.mark.parametrize(("num_tokens", "vocab_size"), [(300, 310), (1100, 1200)])
def test_language_model_has_the_tokens_of_its_tokenizer(tmp_path, texts, num_tokens, vocab_size):
    train_tokenizer(TEXTS, tmp_path / "tok", num_tokens=num_tokens, vocab_size=vocab_size)
    given = ["--tokenizer", tmp_path / "tok", "--source", texts, "-o", tmp_path / "lm", *QUIET]
    result = call("lm", *given)
    assert result.exit_code == 0, result.output
    config = AutoConfig.from_pretrained(tmp_path / "lm/final")
    inner = load_tokenizer(tmp_path / "tok").inner
    assert config.vocab_size == len(inner) == vocab_size
    assert (config.bos_token_id, config.pad_token_id) == (inner.bos_token_id, inner.pad_token_id)
    assert inner.convert_ids_to_tokens(config.eos_token_id) == [
        "<|end_of_text|>",
        "<|eom_id|>",
        "<|eot_id|>",
    ]


def test_texts_may_lie_in_other_columns(tmp_path):
    rows = [{"ask": q, "say": a} for q, a in zip(TEXTS[::2], TEXTS[1::2], strict=True)]
    (tmp_path / "odd.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ["--source", tmp_path / "odd.jsonl", "--set", "texts.columns.question=ask"]
    given += ["--set", "texts.columns.answer=say"]
    sizes = ["--set", "num_tokens=300", "--set", "vocab_size=310"]
    result = call("tokenizer", "-o", tmp_path / "tok", *given, *sizes)
    assert result.exit_code == 0, result.output
    words = load_tokenizer(tmp_path / "tok").inner.get_vocab()
    assert any("capital" in word for word in words), sorted(words)[-40:]


def rows(split, count=4):
    return [[make_row(number, split) for number in range(count)]]


@pytest.mark.parametrize(
    ("splits", "judged"),
    [
        (("train",), []),
        (("train", "words"), []),
        (("train", "test"), ["test"]),
        (("train", "test_seen", "other"), ["test_seen"]),
    ],
    ids=lambda names: "-".join(names) or "nothing",
)
def test_encoder_is_judged_by_what_its_data_set_holds_out(tmp_path, splits, judged):
    make_dataset(tmp_path / "data", {split: rows(split) for split in splits})
    train_tokenizer(TEXTS, tmp_path / "tok", num_tokens=300, vocab_size=310)
    given = ["--data", tmp_path / "data", "--tokenizer", tmp_path / "tok", "-o", tmp_path / "run"]
    result = call("encoder", *given, *QUIET)
    assert result.exit_code == 0, result.output
    text = (tmp_path / "run/metrics.jsonl").read_text()
    assert "NaN" not in text
    found = {key for line in text.splitlines() for key in json.loads(line)}
    assert {f"eval_wer_{split}" for split in judged} == {
        key for key in found if key.startswith("eval_wer_")
    }
    assert (tmp_path / "run/best").exists() == bool(judged)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("splits=", "splits must name at least one that is learnt, got none"),
        ("splits=nothing", "no split 'nothing' in"),
        ("held_out=test", "no split 'test' in"),
    ],
)
def test_splits_that_are_chosen_must_be_there(tmp_path, change, message):
    make_dataset(tmp_path / "data", {"train": rows("train")})
    train_tokenizer(TEXTS, tmp_path / "tok", num_tokens=300, vocab_size=310)
    given = ["--data", tmp_path / "data", "--tokenizer", tmp_path / "tok", "-o", tmp_path / "run"]
    result = call("encoder", *given, *QUIET, "--set", change)
    assert result.exit_code == 2
    assert message in result.output
