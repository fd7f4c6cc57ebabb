"""Layouts of others."""

import json

import numpy as np
import pytest

from llama_omni import audio
from llama_omni.data.build import build
from llama_omni.data.dataset import SpeechDataset
from llama_omni.data.named import find_recipe, with_paths
from llama_omni.data.recipe import Voices
from llama_omni.data.sources import Source, read_sources
from llama_omni.errors import InputError
from tests.data.data_tools import FAKES, recipe_of, tone

PROMPT = "<speech>\nPlease directly answer the questions in the user's speech."


@pytest.fixture
def folder(tmp_path):
    """Sound beside the files that name it."""
    for name in ("q0", "a0", "q1", "a1"):
        audio.save(tmp_path / f"{name}.wav", tone(name, 0.5), 16_000)
    return tmp_path


def write(folder, rows, name="data.json"):
    (folder / name).write_text(json.dumps(rows))
    return str(folder / name)


def turn(who, text, speech=None, unit=None):
    return {"from": who, "text": text, "speech": speech, "unit": unit}


def read(path):
    return list(read_sources([Source(kind="released", path=path)], seed=0))


def test_conversations_keep_their_sound_and_get_new_units(folder):
    rows = [
        {
            "id": "0-1",
            "conversation": [
                turn("human", "First?", "q0.wav", [1, 2]),
                turn("gpt", "Yes.", "a0.wav", [3]),
                turn("human", "And then?", str(folder / "q1.wav"), [4]),
                turn("gpt", "No.", "a1.wav", [9000, 5]),
            ],
        }
    ]
    recipe = with_paths(find_recipe("released"), [write(folder, rows)])
    recipe = recipe_of("", sources=recipe.sources, voices=Voices(question="fake:a", answer=None))
    build(recipe, folder / "set", tools=FAKES)
    item = SpeechDataset(folder / "set")[0]
    assert (item.id, item.question, item.answer) == ("0-1", "And then?", "No.")
    assert item.voice == "recorded"
    np.testing.assert_allclose(item.audio, tone("q1", 0.5), atol=2 / 32768)
    np.testing.assert_allclose(item.answer_audio, tone("a1", 0.5), atol=2 / 32768)
    assert [(past.question, past.answer) for past in item.history] == [("First?", "Yes.")]
    np.testing.assert_allclose(item.history[0].audio, tone("q0", 0.5), atol=2 / 32768)
    assert item.units.max() < 20  # made again: theirs go to 9000
    assert item.durations.sum() == 25


def test_inference_files_and_forks_give_question_sound_and_units(folder):
    rows = [
        {
            "id": "helpful 1",
            "speech": "q0.wav",
            "conversations": [{"from": "human", "value": PROMPT}, {"from": "gpt", "value": "Yes."}],
            "tgt_units": units,
        }
        for units in ("7 7 3 12", [7, 3, 12], "[7, 3, 3, 12]", "<7><3><12>".replace("><", "> <"))
    ]
    rows.append(rows[0] | {"tgt_units": None})
    items = read(write(folder, rows))
    assert [item.units for item in items] == [(7, 3, 12)] * 4 + [None]
    assert items[0].record.id == "released-0000000"  # a space cannot be in a file's name
    assert items[0].record.question == ""
    assert items[0].record.answer == "Yes."
    assert items[0].answer_sound is None
    recipe = recipe_of("", sources=(Source(kind="released", path=str(folder / "data.json")),))
    build(recipe, folder / "set", tools=FAKES)
    data = SpeechDataset(folder / "set")
    assert data[0].units.tolist() == [7, 3, 12]
    assert data[0].durations is None
    assert data[0].answer_audio is None
    assert data[4].answer_audio is not None  # spoken here, as nothing of it was there


def test_absent_sound_is_rejected_with_its_name(folder):
    good = {
        "id": "good",
        "conversation": [turn("human", "Q", "q0.wav"), turn("gpt", "A", "a0.wav")],
    }
    bad = {"id": "bad", "conversation": [turn("human", "Q", "no.wav"), turn("gpt", "A", "a0.wav")]}
    recipe = recipe_of("", sources=(Source(kind="released", path=write(folder, [good, bad])),))
    build(recipe_of("", sources=recipe.sources, rewrite="none"), folder / "set", tools=FAKES)
    reject = json.loads((folder / "set/rejects.jsonl").read_text())
    assert reject["id"] == "bad"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "a"}, "must have a column 'conversation' or 'conversations'; it has id"),
        ({"conversation": [turn("gpt", "A")]}, "turns must alternate human, gpt, got ['gpt']"),
        ({"conversation": []}, "turns must alternate"),
        ({"conversation": "Hello"}, "a conversation must be a list of turns"),
        ({"conversation": [turn("human", 3), turn("gpt", "A")]}, "a turn's 'text' must be text"),
        ({"conversations": []}, "must have a column 'speech'"),
        ({"conversations": [], "speech": "a", "tgt_units": "1 x"}, "tgt_units must be whole"),
        ({"conversations": [], "speech": "a", "tgt_units": [40000]}, "tgt_units must be 0 to"),
    ],
)
def test_other_layouts_are_refused(tmp_path, row, message):
    with pytest.raises(InputError) as caught:
        read(write(tmp_path, [row]))
    assert message in str(caught.value)
