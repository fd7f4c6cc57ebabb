"""Small data sets, and a voice that needs no program, for the tests of data/."""

import hashlib
import json

import numpy as np

from llama_omni.data.flac import encode_flac
from llama_omni.data.schema import HistoryRow, Row, Sound
from llama_omni.data.shards import FORMAT, write_manifest, write_shard


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
