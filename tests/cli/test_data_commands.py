"""`llama-omni data build` and `data info`."""

import json
import shutil

import pytest

from llama_omni.cli_data import data_app
from llama_omni.data.dataset import SpeechDataset

needs_flite = pytest.mark.skipif(
    shutil.which("flite") is None, reason="flite is not installed: apt install flite"
)


def run(*words):
    code = data_app([str(word) for word in words], standalone_mode=False)
    return code if isinstance(code, int) else 0


@pytest.fixture
def questions(tmp_path):
    rows = [
        {"instruction": "What is 2 + 3?", "output": "It is 5."},
        {"instruction": "Name a colour of the sky.", "output": "Blue is a colour of the sky."},
        {"instruction": "Print the code.", "output": "```\nx = 1\n```"},
        {"instruction": "Say hello to me.", "output": "Hello to you, and a good day."},
    ]
    path = tmp_path / "questions.json"
    path.write_text(json.dumps(rows))
    return path


@needs_flite
def test_build_makes_a_set_that_info_and_training_read(questions, tmp_path, capsys):
    output = tmp_path / "set"
    words = [
        "build", "custom", "--source", questions, "-o", output,
        "--set", "sources.0.columns.question=instruction",
        "--set", "sources.0.columns.answer=output", "--set", "voices.question=flite:slt,flite:rms",
        "--set", "voices.answer=flite:rms", "--set", "units.num_units=8", "--seed", 3,
    ]  # fmt: skip
    assert run(*words) == 0
    said = capsys.readouterr()
    assert "train 3; 1 rejected" in said.out
    assert "synthesise" in said.err
    item = SpeechDataset(output)[0]
    assert "two plus three" in item.question.lower()
    assert item.answer == "It is five."
    assert 0.5 < len(item.audio) / 16_000 < 5
    assert set(item.units.tolist()) <= set(range(8))
    assert item.durations.sum() == pytest.approx(len(item.answer_audio) / 320, abs=2)
    assert run(*words) == 0
    assert "was complete before" in capsys.readouterr().err
    assert run("info", output) == 0
    assert "every hash is right; 1 records were rejected" in capsys.readouterr().out
    assert run(*words[:-1], 4) == 2
    assert "got other values of seed (3, now 4)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["build", "tniy", "-o", "x"], "recipe must be one of instructs2s_200k, tiny, custom"),
        (["build", "tiny", "-o", "x", "--set", "sed=1"], "no field 'sed' in 'sed'; there are name"),
        (["build", "custom", "-o", "x"], "give it with --source table=PATH"),
        (["build", "instructs2s_200k", "-o", "x"], "chat.base_url and chat.model must be set"),
        (["info", "x"], "found no manifest"),
    ],
)
def test_refusals_are_one_line(words, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if words[:2] == ["build", "custom"]:
        words = [*words, "--set", "voices.question=flite:rms", "--set", "voices.answer=flite:rms"]
        if shutil.which("flite") is None:
            pytest.skip("flite is not installed: apt install flite")
    assert run(*words) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("llama-omni: error: ")
    assert message in error


@needs_flite
def test_damaged_set_is_told_by_info(questions, tmp_path, capsys):
    output = tmp_path / "set"
    words = ["voices.question=flite:rms", "voices.answer=none", "sources.0.kind=alpaca"]
    sets = [word for setting in words for word in ("--set", setting)]
    assert run("build", "custom", "--source", questions, "-o", output, *sets) == 0
    path = output / "data/train-00000.parquet"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(bytes(data))
    assert run("info", output) == 2
    assert "train-00000.parquet must have SHA-256" in capsys.readouterr().err
