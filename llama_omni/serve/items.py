"""The conversation: an ordered list of items, each of which knows its turns and its event."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from llama_omni.audio import SAMPLE_RATE
from llama_omni.history import ReplyRecord
from llama_omni.interfaces import Audio, Turn

Role = Literal["user", "assistant", "system"]
PartKind = Literal["input_text", "input_audio", "output_text", "output_audio"]
ItemKind = Literal["message", "function_call", "function_call_output"]


@dataclass(kw_only=True, slots=True, eq=False)
class Part:
    """One piece of a message."""

    kind: PartKind
    text: str | None = None  # of sound: its transcript, as far as it is known
    audio: Audio | None = None  # (S,) at 16 kHz, of a user's sound

    def event(self, encode: Callable[[Audio], str] | None = None) -> dict[str, Any]:
        """As events show it; with its sound where `encode` is given."""
        if self.kind in ("input_text", "output_text"):
            return {"type": self.kind, "text": self.text or ""}
        shown: dict[str, Any] = {"type": self.kind, "transcript": self.text}
        if encode is not None and self.audio is not None:
            shown["audio"] = encode(self.audio)
        return shown


@dataclass(kw_only=True, slots=True, eq=False)
class Item:
    """One item of a conversation."""

    id: str
    kind: ItemKind = "message"
    role: Role = "user"
    parts: list[Part] = field(default_factory=list[Part])
    status: Literal["in_progress", "completed", "incomplete"] = "completed"
    call_id: str = ""  # of a function's call or output
    name: str = ""  # of a function
    value: str = ""  # a call's arguments, or what came of it
    revision: int = 0  # grows when what the model reads of it changes
    generation: int | None = None  # of the reply that made it
    record: ReplyRecord | None = None  # of that reply: which words its sound speaks
    reply_rate: int = SAMPLE_RATE  # Hz: of that reply's sound
    num_samples: int = 0  # of that reply's sound that a client has, or keeps
    heard: int | None = None  # samples that were kept when it was truncated
    failed: bool = False  # its reply failed: shown, but never read, so that it can be asked again

    @property
    def audio_samples(self) -> int:
        """How much sound the item keeps in memory."""
        return sum(len(part.audio) for part in self.parts if part.audio is not None)

    @property
    def asks(self) -> bool:
        """Whether a model can answer it."""
        spoken = self.kind == "message" and self.role == "user"
        return spoken or self.kind == "function_call_output"

    def turns(self) -> tuple[Turn, ...]:
        """What a model reads of it; nothing of what is not finished, unheard or no message."""
        if self.kind != "message" or self.status == "in_progress" or self.failed:
            return ()
        if self.record is not None:
            answer = self.record.answer(self.heard)
            return () if answer is None else (answer,)
        found = (
            Turn(role=self.role, audio=part.audio)
            if part.audio is not None
            else Turn(role=self.role, text=part.text or "")
            for part in self.parts
        )
        return tuple(turn for turn in found if turn.audio is not None or turn.text)

    def event(self, encode: Callable[[Audio], str] | None = None) -> dict[str, Any]:
        """As events show it; with its sound where `encode` is given."""
        shown: dict[str, Any] = {
            "id": self.id,
            "object": "realtime.item",
            "type": self.kind,
            "status": self.status,
        }
        if self.kind == "message":
            content = [part.event(encode) for part in self.parts]
            return {**shown, "role": self.role, "content": content}
        if self.kind == "function_call":
            return {**shown, "call_id": self.call_id, "name": self.name, "arguments": self.value}
        return {**shown, "call_id": self.call_id, "output": self.value}


class ItemList:
    """Items in their order."""

    def __init__(self) -> None:
        self._items: list[Item] = []

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, item_id: str) -> bool:
        return self.get(item_id) is not None

    @property
    def last_id(self) -> str | None:
        """The name of the last item."""
        return self._items[-1].id if self._items else None

    @property
    def audio_samples(self) -> int:
        """How much sound all items keep in memory."""
        return sum(item.audio_samples for item in self._items)

    def get(self, item_id: str) -> Item | None:
        """Find an item by its name."""
        return next((item for item in self._items if item.id == item_id), None)

    def insert(self, item: Item, after: str | None) -> str | None:
        """Put an item after another; return the name of the one before it.

        `after` None is the front; after one that is gone is the end.
        """
        place = 0
        if after is not None:
            names = [known.id for known in self._items]
            place = names.index(after) + 1 if after in names else len(names)
        self._items.insert(place, item)
        return self._items[place - 1].id if place else None

    def previous_id(self, item: Item) -> str | None:
        """The name of the item before one of the list's."""
        place = self._items.index(item) if item in self._items else 0
        return self._items[place - 1].id if place else None

    def append(self, item: Item) -> str | None:
        """Put an item last; return the name of the one before it."""
        return self.insert(item, self.last_id)

    def remove(self, item: Item) -> None:
        """Take an item out."""
        self._items.remove(item)

    def oldest(self) -> Item | None:
        """The first item that is not being made."""
        return next((item for item in self._items if item.status != "in_progress"), None)
