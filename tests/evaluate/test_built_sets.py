"""A split of a built data set as a test set: what is asked, what is left out, what is refused."""

import sys
from dataclasses import replace

import numpy as np
import pytest

import llama_omni
from llama_omni import cli_evaluate
from llama_omni.cli import main
from llama_omni.data.dataset import SpeechDataset
from llama_omni.data.flac import encode_flac
from llama_omni.data.schema import Sound
from llama_omni.errors import ConfigError, InputError
from llama_omni.evaluate.evaluated import read_evaluated
from llama_omni.evaluate.records import EvalSet
from llama_omni.evaluate.run import choose
from llama_omni.evaluate.sets import open_set
from tests.data.data_tools import make_dataset, make_row
from tests.evaluate.fake_system import Echo


def asked(number, split="test", **changes):
    """A row that `Echo` answers rightly."""
    wave = np.sin(2 * np.pi * (200 + 50 * number) * np.arange(8000) / 16000)
    sound = Sound(bytes=encode_flac((0.3 * wave).astype(np.float32)), path="q.flac")
    row = make_row(number, split, history=changes.pop("history", False))
    return replace(row, **{"question_audio": sound, "answer": f"It is {number}.", **changes})


@pytest.fixture
def data_set(tmp_path):
    """Three rows to ask in two shards, one that follows a turn, one without sound."""
    rows = [[asked(0), asked(1), asked(2, history=True)], [asked(3, question_audio=None), asked(4)]]
    make_dataset(tmp_path / "set", {"train": [[asked(5, "train")]], "test": rows})
    return tmp_path / "set"


def test_a_split_is_asked_and_what_is_left_out_is_counted(tmp_path, data_set, monkeypatch, capsys):
    system = Echo()
    system.reply = system.ask
    monkeypatch.setattr(llama_omni, "load", lambda *_, **__: system)
    out = tmp_path / "out"
    words = ["evaluate", "--set", f"{data_set}:test", "--mode", "s2tif", "-o", str(out)]
    assert main(words) == 0
    left_out = [
        "left out: 1 of 5 rows, which follow earlier turns",
        "left out: 1 of 5 rows, whose questions have no sound",
    ]
    assert capsys.readouterr().err == "".join(f"llama-omni: {text}\n" for text in left_out)
    score = read_evaluated(out).score("accuracy_text", "s2tif")
    assert (score.value, score.count) == (100, 3)
    assert all(text in (out / "report.md").read_text() for text in left_out)
    assert str(tmp_path) not in (out / "run.json").read_text()


def test_items_have_what_the_rows_have(data_set):
    found = open_set(f"{data_set}:test")
    assert isinstance(found, EvalSet)
    assert found.name == "set, test"
    assert [item.id for item in found.items] == ["row-0", "row-1", "row-4"]
    item = found.items[1]
    assert (item.instruction, item.references, item.match) == ("question 1", ("It is 1.",), "same")
    assert [item.category for item in found.items] == ["", "sum", ""]
    assert found.notes[0] == "Questions spoken by fake:a."


def test_sounds_are_those_of_the_data_set_in_any_order(tmp_path):
    rows = [make_row(number, "test") for number in range(130)]  # more than a row group
    make_dataset(tmp_path, {"test": [rows[:110], rows[110:]]})
    found, known = open_set(f"{tmp_path}:test"), SpeechDataset(tmp_path, "test")
    for number in (129, 0, 105, 99, 100, 1):
        assert np.array_equal(found.speech(found.items[number]), known[number].audio)


def test_without_a_name_the_only_held_out_split_is_taken(data_set, tmp_path, monkeypatch):
    assert open_set(str(data_set)).name == "set, test"
    monkeypatch.chdir(tmp_path)
    assert open_set("set").name == "set, test"
    assert open_set("set:train").name == "set, train"


@pytest.mark.parametrize(
    ("splits", "name", "message"),
    [
        ("train seen unseen", "", r"with one of its splits, .*it has train, seen, unseen$"),
        ("train", "", "with one of its splits, as .*set:SPLIT; it has train$"),
        ("train test", ":tset", "no split 'tset' in .*set; it has train, test$"),
    ],
)
def test_a_split_that_is_not_there_is_refused_with_those_that_are(splits, name, message, tmp_path):
    make_dataset(tmp_path / "set", {split: [[make_row(0, split)]] for split in splits.split()})
    with pytest.raises(InputError, match=message):
        open_set(f"{tmp_path / 'set'}{name}")


def test_what_is_no_data_set_is_refused(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="nowhere must be a data set's folder, got no folder"):
        open_set(f"{tmp_path}/nowhere:test")
    with pytest.raises(InputError, match=r"found no manifest"):
        open_set(f"{tmp_path}:test")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="FOLDER:SPLIT of a data set; got 'nowhere:test'"):
        open_set("nowhere:test")


def test_a_split_of_which_nothing_can_be_asked_is_refused(tmp_path):
    make_dataset(tmp_path, {"test": [[replace(make_row(0, "test"), question_audio=None)]]})
    with pytest.raises(InputError, match=r":test must hold spoken questions, got none \(left out"):
        open_set(f"{tmp_path}:test")


def test_damage_is_told_by_its_file(data_set):
    found = open_set(f"{data_set}:test")
    shard = data_set / "data" / "test-00001.parquet"
    whole = shard.read_bytes()
    shard.write_bytes(b"X" * len(whole))
    with pytest.raises(InputError, match=r"test-00001\.parquet must be a whole shard"):
        found.speech(found.items[2])
    with pytest.raises(InputError, match=r"test-00001\.parquet must be a whole shard"):
        open_set(f"{data_set}:test")
    shard.write_bytes(whole[:-9])
    with pytest.raises(InputError, match=r"test-00001\.parquet must have .* bytes"):
        open_set(f"{data_set}:test")


def test_a_damaged_sound_is_its_items_alone(tmp_path):
    spoilt = asked(0, question_audio=Sound(bytes=b"no sound", path="q.flac"))
    make_dataset(tmp_path, {"test": [[spoilt, asked(1)]]})
    found = open_set(f"{tmp_path}:test")
    with pytest.raises(InputError, match=r"the sound of row-0 cannot be used: .*test-00000"):
        found.speech(found.items[0])
    assert len(found.speech(found.items[1])) == 8000


def test_an_id_that_comes_twice_is_refused(tmp_path):
    make_dataset(tmp_path, {"test": [[asked(0), asked(0)]]})
    with pytest.raises(InputError, match="must have unique ids, got 'row-0' twice"):
        choose(open_set(f"{tmp_path}:test"), None)


def test_the_command_in_a_report_names_no_place_of_this_machine(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x", "evaluate", "--set", "/a/b/set:test", "-o", "/a/out"])
    assert cli_evaluate._command() == "llama-omni evaluate --set set:test -o out"
