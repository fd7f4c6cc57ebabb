"""Where questions come from: published instruction sets, tables of any kind, our tiny domain.

Each source is read as a stream, and gives the same records in the same order each time.
"""

import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache, partial
from itertools import islice
from typing import Any

from llama_omni.data.drawing import drawn
from llama_omni.data.items import Item, KeepSound, sound_of
from llama_omni.data.records import Record
from llama_omni.data.tables import Located, read_rows
from llama_omni.errors import ConfigError, InputError

logger = logging.getLogger(__name__)

KINDS: tuple[str, ...] = ("table", "alpaca", "ultrachat", "released", "tiny")

_ID = re.compile(r"[A-Za-z0-9._-]{1,200}")
_SPLIT = re.compile(r"\w+(\.\w+)*")
_SURROGATE = re.compile("[\ud800-\udfff]")
_USUAL = {  # what others call these columns: proposed where a table has one
    "question": ("question", "instruction", "prompt", "query", "input"),
    "answer": ("answer", "output", "response", "completion", "target"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """What the columns of a table are called; none: the table has no such column."""

    question: str = "instruction"
    answer: str | None = None
    id: str | None = None
    voice: str | None = None
    split: str | None = None
    intent: str | None = None
    question_audio: str | None = None  # recorded sound: a file beside the table, or {bytes, path}
    answer_audio: str | None = None

    def __post_init__(self) -> None:
        if self.answer_audio is not None and self.answer is None:
            raise ConfigError(
                "columns.answer must name the transcript of columns.answer_audio, got none"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One source of a data set."""

    kind: str = "table"  # one of `KINDS`
    path: str = ""  # a file, a folder, or a hub id; nothing for the tiny domain
    name: str = ""  # of the records, in their ids; empty: the kind
    limit: int | None = None  # the first so many records
    split: str = "train"  # of the records, where no column says it; another than "train" goes
    # before the split that a file's name tells
    hub_split: str | None = "train"  # which split of a folder or hub id is read; none: all of them
    held_out: float = 0.0  # share of the training records, drawn by id, that go to the split "test"
    answers: bool = True  # take the source's own answers; false: have others written
    columns: Columns = field(default_factory=Columns)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"source.kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"source.limit must be at least 1, got {self.limit}")
        if not 0.0 <= self.held_out < 1.0:
            raise ConfigError(
                f"source.held_out must be at least 0 and below 1, got {self.held_out}"
            )
        if self.name and not _ID.fullmatch(self.name):
            raise ConfigError(f"source.name must be of letters, digits and ._-, got {self.name!r}")
        if not _SPLIT.fullmatch(self.split):
            raise ConfigError(f"source.split must be letters, digits and _, got {self.split!r}")

    @property
    def label(self) -> str:
        """What its records call it."""
        return self.name or self.kind

    @property
    def recorded(self) -> tuple[bool, bool]:
        """Whether all of its questions, and all of its answers, come as sound."""
        asked, said = self.columns.question_audio, self.columns.answer_audio
        table = self.kind == "table"
        return table and asked is not None, table and said is not None and self.answers


def read_sources(
    sources: Iterable[Source],
    *,
    seed: int,
    named_by_set: bool = False,
    check_voice: Callable[[str], None] = lambda _name: None,
    keep_sound: KeepSound = lambda _data, name: name,
) -> Iterator[Item]:
    """Yield the records of several sources, one source after the other.

    Args:
        sources: At least one.
        seed: Of sources that draw their records.
        named_by_set: Say of an absent column which `--set` names another one.
        check_voice: Is told the voice of each record that names one; its ConfigError refuses it.
        keep_sound: Keeps sound that lies in the rows themselves.

    Raises:
        InputError: A source is empty, broken or lacks a column, or an id comes twice.
        MissingExtraError: A source needs a package that is not installed.
    """
    found: dict[str, str] = {}
    for place, source in enumerate(sources):
        number = 0
        hint = f"sources.{place}" if named_by_set else None
        if not source.answers:  # its column need not be there
            columns = replace(source.columns, answer=None, answer_audio=None)
            source = replace(source, columns=columns)
        for where, item in islice(_read(source, seed, hint, keep_sound), source.limit):
            record = item.record
            if not _ID.fullmatch(record.id):
                raise InputError(
                    f"{where}: id must be 1 to 200 letters, digits and ._-, got {record.id!r}"
                )
            if not _SPLIT.fullmatch(record.split):
                raise InputError(
                    f"{where}: split must be letters, digits and _, got {record.split!r}"
                )
            _check_text(where, item)
            if record.voice is not None:
                try:
                    check_voice(record.voice)
                except ConfigError as error:
                    raise InputError(f"{where}: {error}") from error
            if record.id in found:
                raise InputError(
                    f"{where}: id must be new, got {record.id!r} again, after {found[record.id]}; "
                    "give each source a name of its own, or leave the id column out"
                )
            found[record.id] = where
            if (
                record.split == "train"
                and drawn("held out", record.id, seed=seed) < source.held_out
            ):
                record = replace(record, split="test")
            yield replace(item, record=record if source.answers else replace(record, answer=None))
            number += 1
        if not number:
            raise InputError(
                f"source {source.path or source.label} must hold at least one record, found none"
            )


def _read(
    source: Source, seed: int, hint: str | None, keep: KeepSound
) -> Iterator[tuple[str, Item]]:
    if source.kind == "tiny":
        from llama_omni.data.domain import tiny_records

        if source.limit is None:
            raise ConfigError("source.limit must be set for the tiny domain, which has no end")
        for record in tiny_records(seed, source.limit, split=source.split):
            yield record.id, Item(record=record)
        return
    if not source.path:
        raise InputError(
            f"source {source.label} must have a path; give it with --source {source.label}=PATH"
        )
    if source.kind == "released":
        from llama_omni.data.released import read_released

        make: Callable[[Located, str, Source], Item] = partial(read_released, keep=keep)
    elif source.kind == "table":
        make = partial(_table, keep=keep)
    else:
        make = _MAKERS[source.kind]
    for number, located in enumerate(read_rows(source.path, split=source.hub_split)):
        if source.kind == "table":
            _check_columns(located, source.columns, hint)
        told = source
        if source.split == "train" and located.split is not None:
            told = replace(source, split=located.split)
        yield located.where, make(located, f"{source.label}-{number:07d}", told)


def _check_text(where: str, item: Item) -> None:
    """Refuse half of a pair of UTF-16, which JSON can say and no file of UTF-8 can hold."""
    record = item.record
    texts = {"question": record.question, "answer": record.answer, "voice": record.voice}
    texts |= {"intent": record.intent, "sound": item.question_sound}
    texts |= {"the answer's sound": item.answer_sound}
    for i, turn in enumerate(record.history):
        texts |= {f"history.{i}.question": turn.question, f"history.{i}.answer": turn.answer}
    for i, sound in enumerate(item.history_sounds):
        texts |= {f"history.{i}.sound": sound}
    for name, text in texts.items():
        found = _SURROGATE.search(text or "")
        if found:
            raise InputError(
                f"{where}: {name} must be Unicode text, got a lone surrogate "
                f"{found.group()!a} at character {found.start()}"
            )


def _check_columns(located: Located, columns: Columns, hint: str | None) -> None:
    """Refuse a row without a column that is to be read; say how to name another one."""
    wanted = {field.name: getattr(columns, field.name) for field in fields(columns)}
    absent = {
        name: column
        for name, column in wanted.items()
        if column is not None and column not in located.row
    }
    if not absent:
        return
    told = ""
    if hint is not None:
        settings = []
        for name in absent:
            usual = (column for column in _USUAL.get(name, ()) if column in located.row)
            settings.append(f"--set {hint}.columns.{name}={next(usual, 'COLUMN')}")
        told = f"; name another with {' '.join(settings)}"
        if f"--set {hint}.columns.answer=COLUMN" in settings:
            told += f", or have answers written with --set respond=chat --set {hint}.answers=false"
    raise InputError(f"{_missing(located, ' and '.join(map(repr, absent.values())))}{told}")


def _alpaca(located: Located, name: str, source: Source) -> Item:
    question = _text(located, "instruction")
    more = _text(located, "input") if located.row.get("input") else ""
    return _item(
        name,
        source,
        question=f"{question}\n{more}" if more.strip() else question,
        answer=_text(located, "output") if located.row.get("output") else None,
    )


def _ultrachat(located: Located, name: str, source: Source) -> Item:
    """Read the first turn, in the layout of the authors or in that of the hub."""
    row = located.row
    if "data" in row:
        texts = row["data"]
    elif "messages" in row:
        messages = row["messages"]
        roles = [turn.get("role") if isinstance(turn, Mapping) else None for turn in messages or ()]
        first = roles.index("user") if "user" in roles else len(roles)
        texts = [turn.get("content") for turn in (messages or ())[first : first + 2]]
    else:
        raise _missing(located, "'data or messages'")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InputError(f"{located.where}: a dialogue must be a list of texts, got {texts!r:.80}")
    if not texts:
        raise InputError(f"{located.where}: a dialogue must have a user's turn, got none")
    answer = texts[1] if len(texts) > 1 else None
    return _item(name, source, question=texts[0], answer=answer)


def _table(located: Located, name: str, source: Source, keep: KeepSound) -> Item:
    columns = source.columns

    if located.row.get("history"):
        _tell_turns(located.where.partition(", ")[0])

    def optional(column: str | None) -> str | None:
        return _text(located, column) or None if column is not None else None

    def sound(column: str | None) -> str | None:
        if column is None:
            return None
        value, told = located.row[column], f"column {column!r}"
        return (
            sound_of(value, name=told, where=located.where, folder=located.folder, keep=keep) or ""
        )

    item = _item(
        optional(columns.id) or name,
        source,
        question=_text(located, columns.question),
        answer=optional(columns.answer),
        voice=optional(columns.voice),
        split=optional(columns.split) or source.split,
        intent=optional(columns.intent),
    )
    return replace(
        item,
        question_sound=sound(columns.question_audio),
        answer_sound=sound(columns.answer_audio),
    )


@cache
def _tell_turns(place: str) -> None:
    """Say once of a file that the earlier turns of its rows are lost."""
    logger.warning("earlier turns of rows are not read from a table file=%s", place)


def _item(name: str, source: Source, **fields: Any) -> Item:
    known: dict[str, Any] = {"id": name, "source": source.label, "split": source.split}
    return Item(record=Record(**(known | fields)))


def _text(located: Located, column: str) -> str:
    """Return a column as text; nothing there is no text."""
    if column not in located.row:
        raise _missing(located, repr(column))
    value = located.row[column]
    if value is None:
        return ""
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{located.where}: column {column!r} must hold text, got {value}")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InputError(
            f"{located.where}: column {column!r} must hold text, got {type(value).__name__}"
        )
    return str(value).strip()


def _missing(located: Located, column: str) -> InputError:
    return InputError(
        f"{located.where} must have a column {column}; it has {', '.join(located.row) or 'none'}"
    )


_MAKERS: dict[str, Callable[[Located, str, Source], Item]] = {
    "alpaca": _alpaca,
    "ultrachat": _ultrachat,
}
