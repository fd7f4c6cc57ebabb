"""Small data sets, and a voice that needs no program, for the tests of data/.

Every process of a build imports this file, so nothing here imports torch, which takes seconds.
"""

import hashlib
import json
import os
import time
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np

from llama_omni.data.flac import encode_flac
from llama_omni.data.recipe import BuildRecipe, UnitSettings, Voices
from llama_omni.data.schema import HistoryRow, Row, Sound
from llama_omni.data.shards import FORMAT, write_manifest, write_shard
from llama_omni.data.sources import Columns, Source
from llama_omni.data.tools import Tools
from llama_omni.errors import ConfigError, InputError, ToolError
from llama_omni.interfaces import Voice


def tone(text, seconds=0.4, hz=220.0):
    """A sound that depends on its text alone."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * 16_000)) / 16_000
    sound = 0.3 * np.sin(2 * np.pi * hz * time) + 0.05 * rng.standard_normal(len(time))
    return sound.astype(np.float32)


def make_row(number, split="train", *, spoken=True, history=False):
    """A row whose every field tells its number."""
    question, answer = f"question {number}", f"answer {number} " + "x" * (number % 5)
    seconds = 0.2 + 0.01 * (number % 7)
    return Row(
        id=f"row-{number}",
        split=split,
        source="test",
        intent="sum" if number % 2 else None,
        question=question,
        question_audio=Sound(bytes=encode_flac(tone(question, seconds)), path=f"row-{number}.flac"),
        question_voice="fake:a",
        question_s=seconds,
        answer=answer,
        answer_audio=Sound(bytes=encode_flac(tone(answer)), path="a.flac") if spoken else None,
        answer_voice="fake:b" if spoken else None,
        answer_s=0.4 if spoken else None,
        units=[number % 100, 7, number % 50] if spoken else None,
        durations=[3, 4, 13] if spoken else None,
        history=(HistoryRow(question="before", answer="yes"),) if history else (),
    )


def make_dataset(folder, splits):
    """Write {split: rows} and a manifest; several rows lists of a split make several shards."""
    shards = []
    for split, parts in splits.items():
        for number, rows in enumerate(parts):
            name = f"data/{split}-{number:05d}.parquet"
            shards.append(write_shard(folder, name, split, rows))
    entries = [
        {name: getattr(shard, name) for name in ("file", "split", "rows", "bytes", "sha256")}
        for shard in shards
    ]
    write_manifest(folder, {"format": FORMAT, "shards": entries})
    return json.loads((folder / "manifest.json").read_text())


class FakeSynthesizer:
    """Speaks any text at once: a tone that depends on text, voice, speed and pitch."""

    def __init__(self, spec):
        if spec == "absent":
            raise ToolError("the program absent must be on PATH, found none; apt install absent")
        self.spec = spec
        self.said = []

    @property
    def voices(self):
        names = ("fake:a", "fake:b", "fake:answer", "fake:dying")
        return tuple(Voice(name=name, sample_rate=16_000, licence="made up") for name in names)

    def say(self, text, *, voice, speed=1.0, pitch=1.0):
        if voice == "fake:dying":
            raise ToolError("fake must end with status 0, got 1")
        if "crashing" in text:
            raise ToolError("fake must end with status 0, got 139")
        if "unsayable" in text:
            raise InputError("text must be sayable")
        SAID.append((voice, text))
        seconds = 600.0 if "forever" in text else (0.3 + 0.02 * len(text)) / speed
        time.sleep(PAUSE_S)
        return tone(f"{voice}{text}", seconds, 150 * pitch)

    def close(self):
        pass


SAID = []  # by this process
PAUSE_S = float(os.environ.get("FAKE_PAUSE_S", "0"))


class FakeSoundUnits(NamedTuple):
    units: np.ndarray
    durations: np.ndarray


class FakeUnits:
    """Units from loudness: no library is needed."""

    num_units, sha256 = 20, "0" * 64

    def units(self, waveform, name="sound"):
        frames = np.abs(waveform[: len(waveform) // 320 * 320].reshape(-1, 320)).mean(axis=1) * 97
        frames = frames.astype(np.int64) % 20
        starts = np.flatnonzero(np.diff(frames, prepend=-1))
        return FakeSoundUnits(frames[starts], np.diff(starts, append=len(frames)))

    def save(self, folder, report=None):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "kmeans.npy").write_bytes(b"fake")


def load_fake_units(_folder, _device):
    return FakeUnits()


def open_fake_features(settings):
    if settings.features != "mfcc":
        raise ConfigError(f"units.features must be mfcc, got {settings.features!r}")


def fit_fake_units(answers, settings, _seed):
    seconds = 0.0
    for answer in answers:
        seconds += len(answer) / 16_000
        if seconds > settings.sample_s:
            break
    return FakeUnits(), {"sound_s": round(seconds, 3)}


class FakeRecognizer:
    """Hears nothing but the length of a sound."""

    def transcribe(self, audio):
        return "question one" if len(audio) < 10_000 else "something else"


def open_fake_recognizer(spec):
    if spec != "fake":
        raise ConfigError(f"recognizer must be one of fake; got {spec!r}")
    return FakeRecognizer()


def count_words(_folder):
    return lambda text: len(text.split())


FAKES = Tools(
    open_synthesizer=FakeSynthesizer,
    open_recognizer=open_fake_recognizer,
    load_units=load_fake_units,
    open_features=open_fake_features,
    fit_units=fit_fake_units,
    token_counter=count_words,
    one_thread=nullcontext,
)


def recipe_of(path, **changes):
    """A small recipe over a table with the columns instruction, answer and id."""
    columns = Columns(answer="answer", id="id")
    known = {
        "name": "test",
        "sources": (Source(path=str(path), columns=columns),),
        "voices": Voices(
            question="fake:a,fake:b", answer="fake:answer", speeds=(0.9, 1.1), pitches=(0.8, 1.2)
        ),
        "units": UnitSettings(num_units=20, sample_s=5.0),
        "part_rows": 4,
        "rows_per_shard": 10,
    }
    return BuildRecipe(**(known | changes))


def write_questions(path, number, **changes):
    """A JSONL table of questions; `changes` maps a row's number (r3) to what differs."""
    rows = []
    for i in range(number):
        row = {"id": f"q{i}", "instruction": f"Question {i}, please?", "answer": f"Answer {i % 3}."}
        rows.append(row | changes.get(f"r{i}", {}))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def contents(folder):
    """Every file of a data set with its bytes."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
