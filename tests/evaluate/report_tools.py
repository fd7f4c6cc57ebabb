"""Results folders made by hand, as a run and its measures write them."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from llama_omni import audio
from llama_omni.evaluate.records import EvalItem, ReplyRow, Score

CONDITIONS = ("s2tif", "s2sif-10", "s2sif-40", "s2sif-inf")
WORDS = ("paris", "rome", "seven", "blue")


def write_results(
    folder: Path, *, system: str = "embedded", fingerprint: str = "f1", wer: float = 4.0
) -> Path:
    """Write four items asked under four conditions, one of which failed."""
    folder.mkdir(parents=True)
    run = {
        "system": system,
        "set": {"name": "tiny", "fingerprint": fingerprint, "notes": ["Spoken by flite."]},
        "command": "llama-omni evaluate --system embedded --set tiny",
        "machine": {"cpu": "A <fast> CPU", "date": "2026-11-23", "versions": {"python": "3.11"}},
    }
    _json(folder / "run.json", run)
    items = [
        EvalItem(id=f"q{i}", instruction=f"What is {word}?", references=(word,))
        for i, word in enumerate(WORDS)
    ]
    tone = (0.1 * np.sin(np.arange(1600) / 5)).astype(np.float32)
    for item in items:
        _sound(folder / "questions" / f"{item.id}.flac", tone)
    _jsonl(
        folder / "items.jsonl",
        [{**asdict(item), "question": f"questions/{item.id}.flac"} for item in items],
    )
    rows = [_row(folder, item, condition, tone) for condition in CONDITIONS for item in items]
    _jsonl(folder / "replies.jsonl", [row.to_json() for row in rows])
    heard = [
        {"heard": "bears", "word_errors": 1, "words": 1} if row.item == "q1" else
        {"heard": row.text, "word_errors": 0, "words": 1}
        for row in rows if row.audio
    ]  # fmt: skip
    spoken = [row for row in rows if row.audio]
    lines = [
        {"item": row.item, "condition": row.condition, "value": value}
        for row, value in zip(spoken, heard, strict=True)
    ]
    (folder / "measures").mkdir()
    _jsonl(folder / "measures" / "asr.jsonl", [{"settings": {}}, *lines])
    right = [
        {"item": row.item, "condition": row.condition, "value": {"text": row.item != "q3"}}
        for row in rows
        if row.error is None
    ]
    _jsonl(folder / "measures" / "accuracy.jsonl", [{"settings": {}}, *right])
    _json(folder / "scores.json", {"scores": [asdict(score) for score in _scores(wer)]})
    return folder


def _row(folder: Path, item: EvalItem, condition: str, tone: np.ndarray) -> ReplyRow:
    if item.id == "q2" and condition == "s2tif":
        return ReplyRow(
            item=item.id, condition=condition, error="timed out", finish_reason="failed"
        )
    sound = None
    if condition != "s2tif":
        sound = f"audio/{condition}/{item.id}.flac"
        _sound(folder / sound, tone)
    text = f"It is {item.references[0]} | <b>."
    return ReplyRow(item=item.id, condition=condition, text=text, audio=sound, sample_rate=16_000)


def _scores(wer: float) -> list[Score]:
    found = [
        Score(
            name="decoding_s", condition="s2tif", value=0.5, low=0.4, high=0.6, unit="s", count=4
        ),
        Score(name="decoding_s", condition="s2sif-inf", value=0.75, unit="s", count=4),
        Score(name="utmos", condition="s2sif-inf", absent="no weights; give --utmos FILE"),
    ]
    for place, condition in enumerate(CONDITIONS[1:]):
        found.append(
            Score(
                name="first_audio_ms",
                condition=condition,
                value=60.0 + place,
                low=50.0,
                high=70.0,
                unit="ms",
                count=4,
            )
        )
        found.append(
            Score(name="asr_wer", condition=condition, value=wer + place, unit="%", count=4)
        )
    return found


def _sound(file: Path, samples: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    audio.save(file, samples, 16_000)


def _json(file: Path, value: object) -> None:
    file.write_text(json.dumps(value), encoding="utf-8")


def _jsonl(file: Path, lines: list) -> None:
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
