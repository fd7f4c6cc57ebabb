"""What the server told its visitors, frame by frame, and every rule that it broke."""

from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

_SHOWN = 20  # broken rules that are kept in words


class Ledger:
    """Counts over all sessions."""

    def __init__(self) -> None:
        self.frames = 0
        self.sessions: Counter[str] = Counter()  # by how they ended
        self.done: Counter[str] = Counter()  # actions of visitors
        self.statuses: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()  # codes
        self.num_broken = 0
        self.broken: list[str] = []  # the first of them

    def breaks(self, rule: str) -> None:
        """Note that a rule was broken."""
        self.num_broken += 1
        if len(self.broken) < _SHOWN:
            self.broken.append(rule[:300])


class Told:
    """What one session was told."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._ended: set[str] = set()  # responses
        self.open: set[str] = set()
        self.heard: set[str] = set()  # open ones that have sounded
        self.taken = 0  # responses begun, and what was refused
        self.items: list[str] = []  # of the conversation, in the order of their coming
        self.answers: list[str] = []  # spoken ones among them
        self.answering: set[str] = set()
        self.begun = False

    def see(self, frame: bytes) -> None:
        """Take a frame: it is one of the openai package's events, and comes where it may."""
        self._ledger.frames += 1
        try:
            event = _events().validate_json(frame)
        except ValidationError as error:
            self._ledger.breaks(f"frame is no event: {error.errors()[0]['msg']}: {frame[:120]!r}")
            return
        known = event.model_dump()
        unknown = sorted(path for path in _extras(event) if not path.startswith("session."))
        if unknown:
            self._ledger.breaks(f"{known['type']} has unknown fields {', '.join(unknown)}")
        self._note(known)

    def leave(self, how: str) -> None:
        """The session is over."""
        self._ledger.sessions[how] += 1

    def _note(self, event: dict[str, Any]) -> None:
        kind, response = str(event["type"]), event.get("response_id")
        made = kind.startswith("response.")  # others may name a response that is over
        if made and response is not None and response not in self.open:
            place = "after its response.done" if response in self._ended else "of no response"
            self._ledger.breaks(f"{kind} {place}")
        match kind:
            case "session.created":
                self.begun = True
            case "error":
                self.taken += 1
                self._ledger.errors[str(event["error"]["code"])] += 1
            case "conversation.item.added":
                self.items.append(event["item"]["id"])
            case "conversation.item.deleted":
                for names in (self.items, self.answers):
                    if event["item_id"] in names:
                        names.remove(event["item_id"])
            case "response.output_item.added":
                self.answering.add(event["item"]["id"])
            case "response.output_item.done":
                self.answering.discard(event["item"]["id"])
            case "response.output_audio.delta":
                self.heard.add(str(response))
                if event["item_id"] in self.items and event["item_id"] not in self.answers:
                    self.answers.append(event["item_id"])
            case "response.created":
                self._begin(event["response"]["id"])
            case "response.done":
                self._end(event["response"]["id"], str(event["response"]["status"]))

    def _begin(self, name: str) -> None:
        self.taken += 1
        if name in self.open or name in self._ended:
            self._ledger.breaks("response.created twice")
        self.open.add(name)

    def _end(self, name: str, status: str) -> None:
        if name not in self.open:
            self._ledger.breaks("response.done twice, or of no response")
        self.open.discard(name)
        self.heard.discard(name)
        self._ended.add(name)
        self._ledger.statuses[status] += 1


@cache
def _events() -> TypeAdapter:  # its parameter is a union, which checkers at run time refuse
    from openai.types.realtime import RealtimeServerEvent

    return TypeAdapter(RealtimeServerEvent)


def _extras(value: Any, path: str = "") -> Iterator[str]:
    """Fields that the openai package does not know, anywhere in an event."""
    if isinstance(value, BaseModel):
        for name in value.model_extra or {}:
            yield f"{path}{name}"
        for name in type(value).model_fields:
            yield from _extras(getattr(value, name), f"{path}{name}.")
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _extras(item, path)
