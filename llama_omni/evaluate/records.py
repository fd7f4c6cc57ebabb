"""What an evaluation is made of: items, sets, replies, measures, scores.

Everything is plain data that goes to JSON and back, so that a run can be stopped and gone on with,
and its replies measured anew without asking again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from llama_omni.errors import InputError
from llama_omni.interfaces import Audio, Timings

Mode = Literal["s2tif", "s2sif"]  # instructions by voice, answered in text; in speech as well
MODES: tuple[Mode, ...] = ("s2tif", "s2sif")
UNASKED = "unasked"  # the `finish_reason` of a question whose own sound could not be read


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalItem:
    """One spoken instruction."""

    id: str
    instruction: str  # as text; "" where it is unknown (a folder of recordings)
    references: tuple[str, ...] = ()  # right answers, any of which will do
    match: Literal["same", "contains"] = "contains"  # what a reply must do with a reference
    category: str = ""  # the set's own grouping, such as the tiny domain's intents


@runtime_checkable
class EvalSet(Protocol):
    """Items in a fixed order, and their sounds."""

    @property
    def name(self) -> str:
        """Its name in reports."""
        ...

    @property
    def items(self) -> Sequence[EvalItem]:
        """All items; their ids are unique."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What a reader of its results must know: source, licence, voice, what was left out."""
        ...

    def speech(self, item: EvalItem) -> Audio:
        """Return an item's spoken instruction at 16 kHz.

        Raises:
            InputError: its sound is absent or cannot be read.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """How all items are asked once: the paper's task, and the chunk size Omega."""

    mode: Mode
    chunk_size: int | None = None  # None is infinity, and S2TIF's only one

    @property
    def name(self) -> str:
        """Its name in files and tables: s2tif, s2sif-10, s2sif-inf."""
        if self.mode == "s2tif":
            return self.mode
        return f"{self.mode}-{'inf' if self.chunk_size is None else self.chunk_size}"

    @classmethod
    def of(cls, name: str) -> "Condition":
        """Read a condition's name.

        Raises:
            InputError: it is none.
        """
        mode, _, size = name.partition("-")
        if mode == "s2tif" and not size:
            return cls(mode="s2tif")
        if mode == "s2sif" and (size == "inf" or (size.isdecimal() and int(size) > 0)):
            return cls(mode="s2sif", chunk_size=None if size == "inf" else int(size))
        raise InputError(f"a condition must be s2tif, s2sif-inf or s2sif-10, got {name!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplyRow:
    """One reply under one condition: a line of `replies.jsonl`."""

    item: str  # the item's id
    condition: str  # `Condition.name`
    text: str = ""
    tokens: int = 0
    units: tuple[int, ...] = ()
    audio: str | None = None  # file, relative to the results folder; None: no sound
    sample_rate: int = 0
    duration_s: float = 0.0  # of the sound
    question_s: float = 0.0
    lagging_words: int | None = None
    finish_reason: str = "stop"  # or "length", "cancelled", "failed", `UNASKED`
    error: str | None = None  # why there is no reply
    timings: Mapping[str, float | None] = field(default_factory=dict)  # fields of `Timings`
    batch: int = 1  # how many were asked at a time

    @property
    def key(self) -> tuple[str, str]:
        """What is unique in a results folder."""
        return self.item, self.condition

    @property
    def timed(self) -> Timings:
        """The timings, typed."""
        known = {item.name for item in fields(Timings)}
        values: dict[str, Any] = {name: at for name, at in self.timings.items() if name in known}
        return Timings(**values)

    def to_json(self) -> dict[str, Any]:
        """Return what `json.dumps` takes."""
        return asdict(self)

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> "ReplyRow":
        """Read what `to_json` gave; unknown fields are a later version's and left out.

        Raises:
            InputError: item or condition is missing.
        """
        known = {item.name for item in fields(cls)}
        values = {name: value for name, value in line.items() if name in known}
        for name in ("item", "condition"):
            if not isinstance(values.get(name), str):
                raise InputError(f"a line of replies.jsonl must hold {name!r}, got {line!r:.80}")
        return cls(**{**values, "units": tuple(values.get("units") or ())})


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """One number of a table, or why there is none."""

    name: str  # such as "asr_wer", "first_audio_ms"
    condition: str
    value: float | None = None
    low: float | None = None  # 95 % bootstrap interval over items
    high: float | None = None
    count: int = 0  # items it is made from
    unit: str = ""  # "%", "ms", "s", "1 to 5", "words", ""
    better: Literal["higher", "lower", ""] = ""
    absent: str | None = None  # why there is no value, and how to get one


@runtime_checkable
class Measure(Protocol):
    """Something told of each reply, then of all together.

    `value` is asked once per reply and kept in `measures/NAME.jsonl`; a measure whose `settings`
    are others is measured anew.
    """

    @property
    def name(self) -> str:
        """What `--metrics` calls it: asr, utmos, dnsmos, judge, timing, accuracy, text."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """What its values depend on beside the reply: models, prompts, seeds."""
        ...

    @property
    def parallel(self) -> int:
        """How many replies may be measured at a time, from as many threads."""
        ...

    @property
    def missing(self) -> str | None:
        """Why it cannot be measured here and how that is mended; None: it can be."""
        ...

    def applies(self, row: ReplyRow) -> bool:
        """Whether it says anything of such a reply; what is spoken of needs sound."""
        ...

    def value(self, row: ReplyRow, item: EvalItem, folder: Path) -> dict[str, Any]:
        """Measure one reply; JSON-able, and all that `scores` needs of it.

        Args:
            row: the reply.
            item: what was asked.
            folder: the results folder, in which `row.audio` lies.
        """
        ...

    def scores(
        self, rows: Sequence[tuple[ReplyRow, EvalItem, Mapping[str, Any]]], *, seed: int
    ) -> list[Score]:
        """Return the scores of one condition's replies, with their `value`s, intervals included.

        Measures in which nothing is missing get at least one row. Corpus rates are sums over sums,
        recomputed in each resample.
        """
        ...
