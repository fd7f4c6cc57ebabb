"""A record on its way through the build, and how it is written to a line of JSON."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from llama_omni.data.records import Exchange, Record
from llama_omni.errors import InputError

KeepSound = Callable[[bytes, str], str]  # sound of a table and its name, to what an item calls it


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """A record, and what its source already has of it in sound."""

    record: Record
    question_sound: str | None = None  # a file, where the question needs no synthesis; empty where
    answer_sound: str | None = None  # there should be one and is none: such a record is rejected
    history_sounds: tuple[str | None, ...] = ()  # of the earlier questions; as many, or none
    units: tuple[int, ...] | None = None  # of an answer that comes without sound

    def with_record(self, record: Record) -> "Item":
        """Return the same with its texts changed."""
        return replace(self, record=record)


def sound_of(value: Any, *, name: str, where: str, folder: Path, keep: KeepSound) -> str | None:
    """Return what an item calls the sound that a row has: a file, or what `keep` made of bytes.

    Args:
        value: A path, bytes, or both as `datasets` writes Audio: {bytes, path}; none: no sound.
        name: Of the column, for messages.
        where: The row, for messages.
        folder: That paths are relative to.
        keep: Takes the sound that lies in the row itself.

    Raises:
        InputError: It is something else.
    """
    if isinstance(value, Mapping) and {"bytes", "path"} & set(value):
        data, path = value.get("bytes"), value.get("path")
    else:
        data, path = (value, None) if isinstance(value, bytes) else (None, value)
    if isinstance(data, bytes) and isinstance(path, str | None):
        return keep(data, Path(path or "").name)
    if data is None and path is None:
        return None
    if data is not None or not isinstance(path, str) or "\0" in path:
        raise InputError(
            f"{where}: {name} must be the path of a sound, or {{bytes, path}}, got "
            f"{type(value).__name__}"
        )
    return str(folder / path.strip()) if path.strip() else ""


def to_json(item: Item) -> dict[str, Any]:
    """Return an item as JSON holds it."""
    return asdict(item)


def from_json(data: dict[str, Any]) -> Item:
    """Return what `to_json` wrote."""
    record = data["record"]
    history = tuple(Exchange(**turn) for turn in record["history"])
    units = data["units"]
    return Item(
        record=Record(**(record | {"history": history})),
        question_sound=data["question_sound"],
        answer_sound=data["answer_sound"],
        history_sounds=tuple(data["history_sounds"]),
        units=None if units is None else tuple(units),
    )
