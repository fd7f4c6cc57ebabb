"""The tiny model's results: numbers by hand, the page, and its samples."""

import json
import shutil

import pytest

from llama_omni import audio
from llama_omni.bench.tiny import fingerprint
from llama_omni.errors import InputError
from tests.bench.tiny_tools import CASES, FakeAssistant, make_data, measure, of, sound


@pytest.fixture
def scores(result):
    return result["scores"]


def test_accuracy_by_hand(scores):
    seen, unseen = (scores["accuracy"][split] for split in ("test_seen", "test_unseen"))
    assert of(seen["gate"]) == (2, 3)
    assert of(seen["later"]) == (1, 1)
    assert of(seen["never_trained"]) == (1, 2)
    assert of(unseen["gate"]) == (0, 1)
    assert unseen["later"] is None
    assert {name: of(one) for name, one in seen["gate_by_intent"].items()} == {
        "capital": (1, 1),
        "sum": (1, 2),
    }
    assert {name: of(one) for name, one in seen["gate_by_voice"].items()} == {
        "fake:a": (2, 2),
        "fake:b": (0, 1),
    }
    assert of(unseen["gate_refused"]) == (1, 1)
    assert of(scores["outside_refused"]) == (1, 2)
    assert [row["question"] for row in scores["wrong"]] == ["question 3", "question 6"]
    assert [row["reply"] for row in scores["outside_accepted"]] == ["Rome."]


def test_recognition_compares_the_same_texts_by_hand(scores):
    columns = scores["recognition"]["generic"]["columns"]
    # Cases 2, 4 and 5 say the answer's words: 3 + 3 + 3 words.
    assert of(columns["source"]) == (1, 9)
    assert of(columns["vocoded"]) == (1, 9)
    assert of(columns["reply"]) == (2, 9)
    # All five: "seven" as "heaven" is one more, of 3 + 6 more words.
    assert of(scores["recognition"]["generic"]["own"]) == (3, 18)
    assert of(scores["recognition"]["generic"]["same"]) == (3, 5)


def test_unit_errors_and_times_by_hand(scores):
    # Replies 2 and 5 give 1 2 3 4 for N 2 3 4: one edit each; reply 4 gives 1 3 4 for 4 2 3 4: two.
    assert of(scores["unit_error_rate"]) == (4, 12)
    # Case 5 has a turn before and does not count: cases 2, 3, 4, 6, 7, 8.
    assert scores["timings"]["replies"] == 6
    assert scores["timings"]["first_audio_s"] == pytest.approx(0.05)
    assert scores["timings"]["real_time_factor"] == pytest.approx(0.1)
    assert scores["cut"] == 0


def test_page_numbers_picture_and_samples_are_written(data, tmp_path):
    measure(data, tmp_path)
    folder = tmp_path / "results"
    page = (folder / "tiny.md").read_text()
    assert "| right, voices of the training | 66.7 [" in page
    assert "| out of domain, refused | 50.0 [0.0, 100.0] | 2 |" in page
    assert "| generic LM | 11.1 [" in page
    assert json.loads((folder / "tiny.json").read_text())["scores"]["cut"] == 0
    assert (folder / "tiny.png").stat().st_size > 1000
    links = [part.split(")")[0] for part in page.split("](")[1:]]
    assert len(links) > 8
    for link in links:
        assert (folder / link).is_file(), link
    assert len(audio.load(folder / "samples/tiny-1-source.flac")) == 5002
    assert len(audio.load(folder / "samples/tiny-1-vocoded.flac")) == 6002
    assert str(tmp_path) not in page


def test_the_same_replies_give_the_same_files(data, tmp_path):
    made = []
    for name in ("a", "b"):
        measure(data, tmp_path / name)
        files = sorted((tmp_path / name / "results").rglob("*.*"))
        made.append({path.name: path.read_bytes() for path in files if path.suffix != ".json"})
    for one in made:  # how busy the machine was differs
        lines = one["tiny.md"].decode().splitlines()
        one["tiny.md"] = [line for line in lines if "load average" not in line]
    assert made[0] == made[1]


def test_samples_are_of_every_split_right_ones_first(result):
    chosen = [row["key"] for row in result["samples"]]
    assert chosen[:3] == ["test_seen/row-2", "test_seen/row-4", "test_seen/row-5"]
    assert chosen[3:] == ["test_seen/row-3", "test_unseen/row-6"]  # for want of more


def test_stale_samples_are_replaced(data, tmp_path):
    measure(data, tmp_path)
    assert (tmp_path / "results/samples/tiny-3-reply.flac").exists()
    measure(data, tmp_path, samples=1)
    names = sorted(path.name for path in (tmp_path / "results/samples").iterdir())
    sounds = ("question", "reply", "source", "vocoded")
    assert names == [f"tiny-1-{sound}.flac" for sound in sounds]


def test_limit_takes_the_first_of_each_split_and_a_longer_run_keeps_them(data, tmp_path):
    first, second = FakeAssistant(), FakeAssistant()
    found = measure(data, tmp_path, first, limit=1, heard=1)
    assert first.asked == [2, 6, 7]
    assert of(found["scores"]["accuracy"]["test_seen"]["gate"]) == (1, 1)
    measure(data, tmp_path, second)
    assert second.asked == [3, 4, 5800, 5, 8]


def test_real_voices_are_quoted(data, tmp_path):
    folder = tmp_path / "voices"
    folder.mkdir()
    with pytest.raises(InputError, match="must hold recordings"):
        measure(data, tmp_path, questions=folder)
    audio.save(folder / "b.wav", sound(3208), 16_000)
    audio.save(folder / "a.wav", sound(3999), 16_000)
    found = measure(data, tmp_path, questions=folder)["scores"]["real"]
    assert [(row["file"], row["refused"]) for row in found] == [("a.wav", True), ("b.wav", False)]
    page = (tmp_path / "results/tiny.md").read_text()
    assert "Refused: 1 of 2." in page
    assert "| b.wav | 0.2 | no | Rome. |" in page


@pytest.mark.parametrize("split", ["test_seen", "test_unseen", "outside"])
def test_a_missing_split_is_named(split, tmp_path):
    folder = make_data(tmp_path, [case for case in CASES if case.split != split])
    with pytest.raises(InputError, match=f"no split '{split}' in .*; it has train"):
        measure(folder, tmp_path)


def test_fingerprint_changes_with_weights_and_data(data, tmp_path):
    model, copy = tmp_path / "model", tmp_path / "copy"
    model.mkdir()
    (model / "a.safetensors").write_bytes(b"1")
    first = fingerprint(model, data)
    assert first == fingerprint(model, data) != fingerprint(None, data)
    (model / "a.safetensors").write_bytes(b"2")
    assert fingerprint(model, data) != first
    shutil.copytree(data, copy)
    (copy / "manifest.json").write_text((data / "manifest.json").read_text() + "\n")
    assert fingerprint(model, copy) != fingerprint(model, data)
