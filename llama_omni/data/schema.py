"""One row of a data set on disk: its fields, their Arrow types, and what `datasets` makes of them.

Sound lies in the row itself, encoded: a shard is complete, and a shuffle needs no file system.
"""

import importlib
import json
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from llama_omni.audio import SAMPLE_RATE
from llama_omni.errors import MissingExtraError

MAX_UNIT = 32_767  # units and durations are stored as int16


@dataclass(frozen=True, kw_only=True, slots=True)
class Sound:
    """Encoded sound, as `datasets` stores it."""

    bytes: bytes  # a file of 16 kHz, mono: FLAC of 16 bit, or Opus where a set was made small
    path: str  # the name it would have as a file


@dataclass(frozen=True, kw_only=True, slots=True)
class HistoryRow:
    """One earlier question of the same conversation and its answer."""

    question: str
    answer: str
    question_audio: Sound | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One spoken question with its answer, in writing, in sound and in units."""

    id: str
    split: str
    source: str
    intent: str | None
    question: str
    question_audio: Sound | None  # None: a set of answers alone
    question_voice: str
    question_s: float
    answer: str
    answer_audio: Sound | None = None
    answer_voice: str | None = None
    answer_s: float | None = None
    units: list[int] | None = None  # reduced: no unit follows itself
    durations: list[int] | None = None  # frames of each unit at 50 Hz
    history: tuple[HistoryRow, ...] = ()


COLUMNS = tuple(Row.__dataclass_fields__)


@cache
def arrow_schema() -> Any:
    """Return the schema of a shard, with the features that make `datasets` see Audio.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    pa = arrow()
    sound = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    history = pa.struct(
        [("question", pa.string()), ("answer", pa.string()), ("question_audio", sound)]
    )
    text, integers, seconds = pa.string(), pa.list_(pa.int16()), pa.float32()
    fields = [
        pa.field("id", text),
        pa.field("split", text),
        pa.field("source", text),
        pa.field("intent", text),
        pa.field("question", text),
        pa.field("question_audio", sound),
        pa.field("question_voice", text),
        pa.field("question_s", seconds),
        pa.field("answer", text),
        pa.field("answer_audio", sound),
        pa.field("answer_voice", text),
        pa.field("answer_s", seconds),
        pa.field("units", integers),
        pa.field("durations", integers),
        pa.field("history", pa.list_(history)),
    ]
    assert tuple(field.name for field in fields) == COLUMNS
    return pa.schema(
        fields, metadata={"huggingface": json.dumps({"info": {"features": _FEATURES}})}
    )


def table(rows: list[Row]) -> Any:
    """Return rows as an Arrow table."""
    return arrow().Table.from_pylist([asdict(row) for row in rows], schema=arrow_schema())


def arrow(module: str = "pyarrow") -> Any:
    """Import pyarrow or a part of it, which only those who touch data sets need.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError("pyarrow", "data", "a data set") from error


def _value(dtype: str) -> dict[str, Any]:
    return {"dtype": dtype, "_type": "Value"}


# Written by hand, as `datasets` is no dependency; old and new versions read these forms of a list.
_AUDIO = {"sampling_rate": SAMPLE_RATE, "_type": "Audio"}
_UNITS = {"feature": _value("int16"), "_type": "Sequence"}
_TEXT = {"question": _value("string"), "answer": _value("string")}
_SPECIAL: dict[str, Any] = {
    "question_audio": _AUDIO,
    "answer_audio": _AUDIO,
    "question_s": _value("float32"),
    "answer_s": _value("float32"),
    "units": _UNITS,
    "durations": _UNITS,
    "history": [_TEXT | {"question_audio": _AUDIO}],
}
_FEATURES = {name: _SPECIAL.get(name, _value("string")) for name in COLUMNS}
