"""Numbers about a data set: how much there is of it, how long, in whose voices.

Read from the stored columns; no sound is decoded.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from llama_omni.data.schema import arrow
from llama_omni.errors import InputError

_COLUMNS = (
    "split", "source", "intent", "question", "question_voice", "question_s", "answer",
    "answer_voice", "answer_s", "units", "history",
)  # fmt: skip


@dataclass(slots=True)
class SplitStatistics:
    """One split; each list has one number a row."""

    rows: int = 0
    question_s: list[float] = field(default_factory=list)
    answer_s: list[float] = field(default_factory=list)  # of spoken answers
    question_words: list[int] = field(default_factory=list)
    answer_words: list[int] = field(default_factory=list)
    units: list[int] = field(default_factory=list)  # of answers that have units
    units_per_s: list[float] = field(default_factory=list)
    tokens_per_s: list[float] = field(default_factory=list)  # with a tokenizer
    units_per_token: list[float] = field(default_factory=list)
    follow_ups: int = 0  # rows with a history
    question_voices: Counter[str] = field(default_factory=Counter)
    answer_voices: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    intents: Counter[str] = field(default_factory=Counter)


def dataset_statistics(
    folder: Path,
    manifest: dict[str, Any],
    *,
    count_tokens: Callable[[str], int] | None = None,
) -> dict[str, SplitStatistics]:
    """Return the statistics of each split, in the order of the manifest.

    Args:
        folder: Of the data set; its manifest need not be written yet.
        manifest: What it says.
        count_tokens: Counts the tokens of an answer.

    Raises:
        InputError: A shard cannot be read.
    """
    found: dict[str, SplitStatistics] = {}
    parquet = arrow("pyarrow.parquet")
    for shard in manifest["shards"]:
        path = folder / shard["file"]
        split = found.setdefault(shard["split"], SplitStatistics())
        try:
            with parquet.ParquetFile(path) as file:
                columns = [*_COLUMNS[:-1], "history.list.element.question"]
                for batch in file.iter_batches(512, columns=columns, use_threads=False):
                    for row in batch.to_pylist():
                        _count(split, row, count_tokens)
        except (OSError, arrow().ArrowException) as error:
            raise InputError(f"{path} must be a whole shard, got: {error}") from error
    return found


def _count(
    split: SplitStatistics, row: dict[str, Any], count_tokens: Callable[[str], int] | None
) -> None:
    split.rows += 1
    split.question_s.append(row["question_s"])
    split.question_words.append(len(row["question"].split()))
    split.answer_words.append(len(row["answer"].split()))
    split.follow_ups += bool(row["history"])
    split.question_voices[row["question_voice"]] += 1
    split.sources[row["source"]] += 1
    if row["intent"] is not None:
        split.intents[row["intent"]] += 1
    if row["answer_voice"] is not None:
        split.answer_voices[row["answer_voice"]] += 1
    seconds, units = row["answer_s"], row["units"]
    if seconds is not None:
        split.answer_s.append(seconds)
    if units is not None:
        split.units.append(len(units))
        if seconds:
            split.units_per_s.append(len(units) / seconds)
    tokens = count_tokens(row["answer"]) if count_tokens is not None else 0
    if tokens and seconds:
        split.tokens_per_s.append(tokens / seconds)
    if tokens and units is not None:
        split.units_per_token.append(len(units) / tokens)


def statistics_rows(found: dict[str, SplitStatistics]) -> list[list[str]]:
    """Return a table for people, its header first."""
    rows = [
        ["split", "rows", "questions", "mean", "answers", "mean", "words", "units/s", "voices"],
    ]
    for name, split in found.items():
        rows.append(
            [
                name,
                f"{split.rows:,}",
                _hours(split.question_s),
                f"{mean(split.question_s):.2f} s",
                _hours(split.answer_s),
                f"{mean(split.answer_s):.2f} s",
                f"{mean(split.answer_words):.1f}",
                f"{mean(split.units_per_s):.1f}",
                str(len(split.question_voices)),
            ]
        )
    return rows


def mean(values: list[Any]) -> float:
    """Return the mean, 0 of nothing."""
    return float(np.mean(values)) if values else 0.0


def _hours(seconds: list[float]) -> str:
    return f"{sum(seconds) / 3600:.2f} h"
