"""The command that measures the tiny model."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llama_omni import audio
from llama_omni.bench.tiny import vocode_with
from llama_omni.loading import load
from tests.backends.asr_tools import common_words
from tests.bench.tiny_tools import CASES, make_data

ROOT = Path(__file__).parents[2]


@pytest.fixture
def command():
    spec = importlib.util.spec_from_file_location("runs", ROOT / "runs/tiny_results.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def test_command_measures_random_weights_from_end_to_end(command, tmp_path, capsys):
    pytest.importorskip("pocketsphinx")
    trained, *others = CASES
    data = make_data(tmp_path / "set", [replace(trained, answer=" ".join(common_words())), *others])
    words = ["--random-weights", "--data", str(data), "-o", str(tmp_path / "tiny")]
    words += ["--work", str(tmp_path / "work"), "--limit", "1", "--samples", "1"]
    words += ["--max-new-tokens", "4"]
    assert command(words) == 0
    assert "# What the tiny model can do" in capsys.readouterr().out
    page = (tmp_path / "tiny.md").read_text()
    assert "tiny preset, RANDOM weights" in page
    assert "python runs/tiny_results.py --random-weights" in page
    assert str(tmp_path) not in page
    assert list(tmp_path.glob("work/*/answers-*.lm"))


def test_command_refuses_what_is_no_data_set_or_model(command, data, tmp_path, capsys):
    assert command(["--data", str(tmp_path)]) == 2
    assert "must hold a data set" in capsys.readouterr().err
    assert command(["--data", str(data), "--model", str(tmp_path / "none")]) == 2
    assert "--model must be a folder" in capsys.readouterr().err


def test_true_units_are_spoken_with_the_assistants_vocoder():
    assistant = load(preset="tiny", random_weights=True)
    spoken = vocode_with(assistant)([1, 2, 3])
    assert spoken.dtype == np.float32
    assert len(spoken) >= 3 * audio.UNIT_HOP
