"""Test sets: what they read, and what they refuse."""

import json

import numpy as np
import pytest

from llama_omni import audio
from llama_omni.errors import ConfigError, InputError
from llama_omni.evaluate.records import EvalSet
from llama_omni.evaluate.sets import open_set
from llama_omni.evaluate.sets.instructs2s_eval import select


def sound(file, pitch=300):
    file.parent.mkdir(parents=True, exist_ok=True)
    wave = 0.2 * np.sin(2 * np.pi * pitch * np.arange(8000) / 16000)
    audio.save(file, wave.astype(np.float32), 16_000)


def test_the_shipped_set_is_there_and_can_be_heard():
    found = open_set("tiny")
    assert isinstance(found, EvalSet)
    assert len(found.items) == 180
    assert len({item.id for item in found.items}) == 180
    assert all(item.references and item.instruction for item in found.items)
    kinds = {item.category.partition(",")[0] for item in found.items}
    assert kinds == {"trained voice", "other voice", "outside"}
    for item in found.items[::40]:
        speech = found.speech(item)
        assert speech.dtype == np.float32
        assert 0.3 < len(speech) / 16_000 < 15
        assert np.abs(speech).max() > 0.02


def test_unknown_sets_list_those_there():
    for name in ("alpaca", "folder", "tiny:x"):
        with pytest.raises(ConfigError, match="must be one of tiny, instructs2s_eval:FILE"):
            open_set(name)


def test_a_folder_of_recordings(tmp_path):
    sound(tmp_path / "b.wav")
    sound(tmp_path / "a.flac")
    (tmp_path / "a.txt").write_text("What is\nit?\n")
    found = open_set(f"folder:{tmp_path}")
    assert [(item.id, item.instruction) for item in found.items] == [
        ("a", "What is it?"),
        ("b", ""),
    ]
    assert len(found.speech(found.items[0])) == 8000
    sound(tmp_path / "a.wav")
    with pytest.raises(InputError, match="must have a name of its own"):
        open_set(f"folder:{tmp_path}")


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_folder_with_a_table(tmp_path, suffix):
    sound(tmp_path / "x" / "a.wav")
    if suffix == "csv":
        text = "audio,id,instruction,reference,category\nx/a.wav,one,Say it.,it|that,easy\n"
    else:
        row = {"audio": "x/a.wav", "id": "one", "instruction": "Say it.", "category": "easy"}
        text = json.dumps({**row, "reference": ["it", "that"]}) + "\n"
    (tmp_path / f"items.{suffix}").write_text(text)
    (item,) = open_set(f"folder:{tmp_path}").items
    assert (item.id, item.instruction, item.category) == ("one", "Say it.", "easy")
    assert item.references == ("it", "that")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("id\n1\n", "must have the columns audio; it lacks audio and has id"),
        ("audio\n\n", "items.csv:2: audio must hold a text"),
        ("audio,id\na.wav,1\na.wav,1\n", "items.csv:3: id must be new, got '1' again"),
        ("audio\nb.wav\n", "items.csv:2: audio must be a file in the folder, got 'b.wav'"),
    ],
)
def test_a_wrong_table_says_where(tmp_path, table, message):
    sound(tmp_path / "a.wav")
    (tmp_path / "items.csv").write_text(table.replace("\n\n", "\n \n"))
    with pytest.raises(InputError) as refused:
        open_set(f"folder:{tmp_path}")
    assert message in str(refused.value)


def test_an_empty_or_missing_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="must hold sounds"):
        open_set(f"folder:{tmp_path}")
    with pytest.raises(InputError, match="got no folder"):
        open_set(f"folder:{tmp_path / 'nowhere'}")
    (tmp_path / "a.wav").write_bytes(b"no sound")
    found = open_set(f"folder:{tmp_path}")
    with pytest.raises(InputError, match="the sound of a cannot be used"):
        found.speech(found.items[0])


def open_audio_bench(root):
    tables = {
        "llama_questions": 'Questions,Answer,audio_filename\n"Who, then?",Ada,1.mp3\n',
        "web_questions": "question,answers,audio_filename\nwhere,Rome;Roma,2.wav\n",
        "trivia_qa": "question,answer_normalized_value,answer_normalized_aliases,audio_filename\n"
        'what,seven,"7,the seven",3.wav\n',
        "alpaca_eval": "instruction,audio_filename\nTell a joke,4.wav\n",
    }
    for name, text in tables.items():
        place = root / "eval_datas" / name
        sound(place / "audios" / text.rstrip().rpartition(",")[2])
        (place / f"{name}.csv").write_text(text)
    return root


def test_open_audio_bench_reads_its_four_english_subsets(tmp_path):
    root = open_audio_bench(tmp_path)
    found = open_set(f"openaudiobench:{root}")
    known = {item.id: (item.instruction, item.references) for item in found.items}
    assert known == {
        "llama_questions/1": ("Who, then?", ("Ada",)),
        "web_questions/2": ("where", ("Rome", "Roma")),
        "trivia_qa/3": ("what", ("seven", "7", "the seven")),
        "alpaca_eval/4": ("Tell a joke", ()),
    }
    assert len(found.speech(found.items[0])) == 8000
    one = open_set(f"openaudiobench:{root}/eval_datas/trivia_qa")
    assert [item.id for item in one.items] == ["trivia_qa/3"]
    assert one.name == "OpenAudioBench trivia_qa"


def test_open_audio_bench_says_what_is_missing(tmp_path):
    root = open_audio_bench(tmp_path)
    table = root / "eval_datas" / "trivia_qa" / "trivia_qa.csv"
    whole = table.read_text()
    table.write_text(whole.replace("answer_normalized_value", "value"))
    with pytest.raises(InputError, match="lacks answer_normalized_value"):
        open_set(f"openaudiobench:{root}")
    table.write_text(whole.replace("3.wav", "9.wav"))
    with pytest.raises(InputError, match=r"9\.wav must be the sound of trivia_qa/9"):
        open_set(f"openaudiobench:{root}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="must hold one of OpenAudioBench's llama_questions"):
        open_set(f"openaudiobench:{tmp_path / 'empty'}")


LEFT_OUT = (
    "Develop a C++ program that reads a text file line by line",
    "Implement a Python function to find the longest common subsequence of two",
    "Implement a regular expression in Python to validate an email address.",
    "Write a program to find the nth Fibonacci number using dynamic programming.",
    "Implement a binary search algorithm to find a specific element",
    "Implement a queue data structure using two stacks in Python.",
    "Implement a program to find the common elements in two arrays",
    "Given that f(x) = 5x^3 - 2x + 3, find the value of f(2).",
    "Solve for x in the equation 3x + 10 = 5(x - 2).",
    "If the endpoints of a line segment are (2, -2) and (10, 4), what is",
)


def alpaca_eval():
    rows = [{"instruction": f"Help {i}.", "dataset": "helpful_base"} for i in range(129)]
    rows += [{"instruction": f"Other {i}.", "dataset": "koala"} for i in range(9)]
    rows += [{"instruction": f"Vicuna {i}.", "dataset": "vicuna"} for i in range(70)]
    return rows + [{"instruction": text, "dataset": "vicuna"} for text in LEFT_OUT]


def test_instructs2s_eval_is_199_spoken_instructions(tmp_path):
    said = []

    class Says:
        def say(self, text, *, voice):
            said.append((text, voice))
            return np.full(16_000, 0.1, np.float32)

    file = tmp_path / "alpaca_eval.json"
    file.write_text(json.dumps(alpaca_eval()))
    found = open_set(
        f"instructs2s_eval:{file}", voice="flite:slt", open_synthesizer=lambda name: Says()
    )
    assert isinstance(found, EvalSet)
    assert len(found.items) == 199
    assert not any(item.instruction.startswith(LEFT_OUT) for item in found.items)
    assert found.items[0].id == "helpful_base-001"
    assert len(found.speech(found.items[0])) == 16_000
    assert said == [("Help 0.", "flite:slt")]
    assert any("not published" in note for note in found.notes)
    with pytest.raises(InputError, match="give --voice"):
        open_set(f"instructs2s_eval:{file}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:-1], "must hold 199 instructions beside 10 about"),
        (lambda rows: rows[1:], "got 198 beside 10"),
        (lambda rows: [{"dataset": "vicuna"}], "row 1 must have the column instruction"),
    ],
)
def test_a_set_that_is_not_the_whole_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        select(change(alpaca_eval()))
