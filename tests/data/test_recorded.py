"""Tables whose questions or answers were recorded."""

import csv
import json
import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llama_omni import audio
from llama_omni.data.build import build
from llama_omni.data.dataset import SpeechDataset
from llama_omni.data.named import find_recipe
from llama_omni.data.sources import Columns, Source, read_sources
from llama_omni.errors import ConfigError, InputError
from tests.data import data_tools
from tests.data.data_tools import FAKES, contents, recipe_of, tone

COLUMNS = Columns(
    question="text", answer="reply", id="id", question_audio="asked", answer_audio="said"
)
SOUNDS = ("q0", "q1", "a0", "a1")


@pytest.fixture
def folder(tmp_path):
    """Sound beside the table that names it."""
    (tmp_path / "clips").mkdir()
    for name in SOUNDS:
        audio.save(tmp_path / f"clips/{name}.wav", tone(name, 0.5), 16_000)
    return tmp_path


def rows_of(folder, sound):
    return [
        {
            "id": f"r{i}",
            "text": f"What is {i} + {i}?",
            "reply": f"It is {2 * i}.",
            "asked": sound(f"clips/q{i}.wav"),
            "said": sound(str(folder / f"clips/a{i}.wav")),
        }
        for i in range(2)
    ]


def write(folder, rows, name):
    if name.endswith(".csv"):
        with (folder / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), folder / name)
    else:
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Source(path=str(folder / name), columns=COLUMNS)


def recipe_for(*sources, **changes):
    return recipe_of("", sources=sources, **changes)


def rejects_of(folder):
    lines = (folder / "rejects.jsonl").read_text().splitlines()
    return {row["id"]: (row["stage"], row["reason"]) for row in map(json.loads, lines)}


@pytest.mark.parametrize("name", ["t.jsonl", "t.csv", "t.parquet", "within.parquet", "raw.parquet"])
def test_recorded_sound_is_kept_and_its_text_is_the_transcript(folder, name):
    def sound(path):
        data = (folder / path).read_bytes()
        return {"within.parquet": {"bytes": data, "path": path}, "raw.parquet": data}.get(
            name, path
        )

    source = write(folder, rows_of(folder, sound), name)
    data_tools.SAID.clear()
    build(recipe_for(source), folder / "set", tools=FAKES)
    assert data_tools.SAID == []
    data = SpeechDataset(folder / "set")
    assert data.ids == ["r0", "r1"]
    assert (data[1].question, data[1].answer) == ("What is 1 + 1?", "It is 2.")
    assert data[1].voice == "recorded"
    np.testing.assert_allclose(data[1].audio, tone("q1", 0.5), atol=2 / 32768)
    np.testing.assert_allclose(data[1].answer_audio, tone("a1", 0.5), atol=2 / 32768)
    assert data[1].durations.sum() == 25
    assert not (folder / "set/.work").exists()


def test_answers_to_recorded_questions_are_cleaned_and_spoken(folder):
    source = write(folder, rows_of(folder, str), "t.jsonl")
    source = replace(source, columns=replace(COLUMNS, answer_audio=None))
    data_tools.SAID.clear()
    build(recipe_for(source), folder / "set", tools=FAKES)
    assert data_tools.SAID == [("fake:answer", "It is zero."), ("fake:answer", "It is two.")]
    item = SpeechDataset(folder / "set")[1]
    assert (item.question, item.answer) == ("What is 1 + 1?", "It is two.")
    np.testing.assert_allclose(item.audio, tone("q1", 0.5), atol=2 / 32768)


def test_what_is_recorded_needs_no_voice(folder):
    source = write(folder, rows_of(folder, str), "t.jsonl")
    recipe = recipe_for(source)
    absent = replace(recipe.voices, question="absent:a", answer="absent:b")
    build(replace(recipe, voices=absent), folder / "set", tools=FAKES)
    assert json.loads((folder / "set/manifest.json").read_text())["voices"] == {}


@pytest.mark.parametrize("within", [False, True], ids=["files", "within"])
def test_absent_and_broken_sound_rejects_its_row(folder, within):
    (folder / "clips/broken.wav").write_bytes(b"no sound")

    def sound(path):
        return {"bytes": (folder / path).read_bytes(), "path": path} if within else path

    rows = rows_of(folder, sound)
    more = [("broken", sound("clips/broken.wav")), ("none", None)]
    if not within:
        more += [("absent", "clips/no.wav"), ("empty", " ")]
    rows += [rows[0] | {"id": name, "text": f"How {name}?", "asked": asked} for name, asked in more]
    source = write(folder, rows, "t.parquet" if within else "t.jsonl")
    build(recipe_for(source), folder / "set", tools=FAKES)
    assert SpeechDataset(folder / "set").ids == ["r0", "r1"]
    rejects = rejects_of(folder / "set")
    assert set(rejects) == {name for name, _ in more}
    assert rejects["none"] == ("synthesise", "the question's sound must be there, got none")
    place = "the question's sound" if within else f"{folder}/clips/broken.wav"
    assert rejects["broken"][1].startswith(f"{place} must be audio")
    if not within:
        assert rejects["empty"] == rejects["none"]
        assert "clips/no.wav must be a readable file, got no such file" in rejects["absent"][1]


def test_sound_of_a_folder_lies_beside_each_table(folder):
    source = write(folder, rows_of(folder, str), "clips/t.jsonl")
    rows = [json.loads(line) for line in (folder / "clips/t.jsonl").read_text().splitlines()]
    for row in rows:
        row["asked"] = row["asked"].removeprefix("clips/")
    write(folder, rows, "clips/t.jsonl")
    build(recipe_for(replace(source, path=str(folder))), folder / "set", tools=FAKES)
    assert SpeechDataset(folder / "set").ids == ["r0", "r1"]


def test_interrupted_builds_of_tables_with_sound_go_on_to_the_same_files(folder):
    def sound(path):
        return {"bytes": (folder / path).read_bytes(), "path": None}

    recipe = recipe_for(write(folder, rows_of(folder, sound), "t.parquet"))

    def stop(progress):
        if progress.stage == "synthesise":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(recipe, folder / "set", tools=FAKES, on_progress=stop)
    (folder / "set").rename(folder / "moved")
    build(recipe, folder / "moved", tools=FAKES)
    build(recipe, folder / "new", tools=FAKES)
    assert contents(folder / "moved") == contents(folder / "new")


def test_finished_set_is_refused_and_its_shards_are_read_as_told(folder):
    source = write(folder, rows_of(folder, str), "t.jsonl")
    build(recipe_for(source), folder / "set", tools=FAKES)
    (first,) = find_recipe("custom").sources
    with pytest.raises(InputError, match="must be tables, got a finished data set") as caught:
        build(recipe_for(replace(first, path=str(folder / "set"))), folder / "new", tools=FAKES)
    assert f"its shards are tables and lie in {folder}/set/data, with" in str(caught.value)
    columns = replace(
        first.columns, split="split", question_audio="question_audio", answer_audio="answer_audio"
    )
    again = replace(first, path=str(folder / "set/data"), columns=columns)
    build(recipe_for(again), folder / "again", tools=FAKES)
    one, two = SpeechDataset(folder / "set")[0], SpeechDataset(folder / "again")[0]
    assert (one.question, one.answer) == (two.question, two.answer)
    np.testing.assert_array_equal(one.audio, two.audio)


def test_other_values_than_sound_are_refused_without_printing_them(folder):
    rows = rows_of(folder, lambda _path: [0.25] * 10_000)
    with pytest.raises(InputError) as caught:
        list(read_sources([write(folder, rows, "t.jsonl")], seed=0))
    assert str(caught.value) == (
        f"{folder}/t.jsonl, line 1: column 'asked' must be the path of a sound, or {{bytes, path}},"
        " got list"
    )
    with pytest.raises(ConfigError, match=r"columns.answer must name the transcript of columns"):
        Columns(answer_audio="said")


def test_released_rows_may_hold_their_sound(folder):
    sound = {"bytes": (folder / "clips/q0.wav").read_bytes(), "path": "q0.wav"}
    turns = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]
    rows = [{"id": "a", "speech": sound, "conversations": turns}]
    pq.write_table(pa.Table.from_pylist(rows), folder / "r.parquet")
    source = Source(kind="released", path=str(folder / "r.parquet"))
    build(recipe_for(source, rewrite="none"), folder / "set", tools=FAKES)
    np.testing.assert_allclose(
        SpeechDataset(folder / "set")[0].audio, tone("q0", 0.5), atol=2 / 32768
    )


@pytest.mark.parametrize("speech", [[1, 2], {"array": [0.5] * 1000, "sampling_rate": 16_000}])
def test_released_sound_of_another_kind_is_called_so(folder, speech):
    (folder / "r.jsonl").write_text(json.dumps({"speech": speech, "conversations": []}))
    with pytest.raises(InputError, match=r"line 1: 'speech' must be the path of a sound, or") as e:
        list(read_sources([Source(kind="released", path=str(folder / "r.jsonl"))], seed=0))
    assert str(e.value).endswith(f"got {type(speech).__name__}")


def test_set_whose_sounds_are_all_absent_is_told_what_to_do(folder):
    source = write(folder, rows_of(folder, lambda path: f"nowhere/{path}"), "t.jsonl")
    message = f"got no such file; mend it and delete {folder / 'set'} to build it anew"
    with pytest.raises(InputError, match=re.escape(message)):
        build(recipe_for(source), folder / "set", tools=FAKES)
