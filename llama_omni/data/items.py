"""A record on its way through the build, and how it is written to a line of JSON."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from llama_omni.data.records import Exchange, Record


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """A record, and what its source already has of it in sound."""

    record: Record
    question_sound: str | None = None  # a file, where the question needs no synthesis
    answer_sound: str | None = None
    history_sounds: tuple[str | None, ...] = ()  # of the earlier questions; as many, or none
    units: tuple[int, ...] | None = None  # of an answer that comes without sound

    def with_record(self, record: Record) -> "Item":
        """Return the same with its texts changed."""
        return replace(self, record=record)


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
