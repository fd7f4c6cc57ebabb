"""One Realtime session as a state machine: what comes in, and what is then to be done.

No I/O, no clock, no model. Every method returns a list of actions (`actions.py`), which the server
does in order; nothing a client sends raises. A reply may be prepared at a short pause, before its
turn is over: nothing of that shows, and it becomes the response only if the turn's end asks for
exactly the same.
"""

from collections.abc import Callable
from typing import Any, ClassVar

from llama_omni.interfaces import Audio
from llama_omni.serve.actions import (
    Action,
    ClearAudio,
    Close,
    CommitAudio,
    DropAudio,
    Listen,
    Tune,
)
from llama_omni.serve.conversation import Conversation
from llama_omni.serve.errors import ProtocolError
from llama_omni.serve.ids import IdSource, RandomIds
from llama_omni.serve.item_reading import ItemReader
from llama_omni.serve.items import Item
from llama_omni.serve.limits import ModelFacts, SessionLimits
from llama_omni.serve.outbox import Outbox
from llama_omni.serve.protocol import (
    ClientEvent,
    InputAudioAppend,
    InputAudioClear,
    InputAudioCommit,
    ItemCreate,
    ItemDelete,
    ItemRetrieve,
    ItemTruncate,
    OutputAudioClear,
    ResponseCancel,
    ResponseCreate,
    SessionUpdate,
)
from llama_omni.serve.protocol_items import InputItem
from llama_omni.serve.reading import read_event
from llama_omni.serve.requests import build_request
from llama_omni.serve.responses import Responses, SessionReply
from llama_omni.serve.session_config import ConfigReader, SessionConfig
from llama_omni.serve.speaking import Speaking
from llama_omni.serve.transcripts import Transcripts
from llama_omni.serve.turn_events import BufferFull, Committed, TurnEvent
from llama_omni.serve.turn_settings import TurnSettings

_NORMAL, _GOING_AWAY, _POLICY = 1000, 1001, 1008  # WebSocket close codes


class Session:
    """One client's session.

    Args:
        model: what answers.
        limits: how much the client may send.
        ids: where names come from.
    """

    def __init__(
        self,
        model: ModelFacts | None = None,
        limits: SessionLimits | None = None,
        ids: IdSource | None = None,
    ) -> None:
        self.model, self.limits = model or ModelFacts(), limits or SessionLimits()
        self._out = Outbox(ids or RandomIds())
        self.id = self._out.ids.new("sess")
        self.config = SessionConfig(
            instructions=self.model.instructions, voice=self.model.voices[0]
        )
        self._conversation = Conversation(self._out, self.limits)
        self._responses = Responses(self._out, self._conversation, self.limits)
        self._transcripts = Transcripts(self._out, self._conversation, self.model)
        self._speaking = Speaking(
            self._out, self._conversation, self._responses, self._transcripts, self.model
        )
        self._config_reader = ConfigReader(self.model, self.limits)
        self._item_reader = ItemReader(self.model, self.limits, self._out.ids)
        self._commits: list[str | None] = []  # event_id of each commit that the detector owes
        self._errors = 0  # one after the other
        self._began_ms: float | None = None
        self._draining = self.closed = False

    # What comes in

    def begin(self) -> list[Action]:
        """Greet the client."""
        self._out.send("session.created", session=self.config.event(self.id, self.model.name))
        self._out.add(Tune(settings=self._turn_settings(self.config)))
        return self._out.take()

    def client(self, frame: str | bytes | dict[str, Any]) -> list[Action]:
        """Take what the client sent: the text of a frame, or an event. Never raises."""
        if self.closed:
            return []
        event: ClientEvent | None = None
        try:
            event = read_event(frame, max_bytes=self.limits.max_event_bytes)
            self._HANDLERS[event["type"]](self, event)
            self._errors = 0
        except ProtocolError as error:
            self._out.refuse(error, event_id=event.get("event_id") if event else None)
            self._errors += 1
            if self._errors >= self.limits.max_errors:
                self._close(_POLICY, f"{self._errors} errors one after the other")
        return self._settle()

    def turn(self, event: TurnEvent | Committed) -> list[Action]:
        """Take what the turn detector reports."""
        if self.closed:
            return []
        if isinstance(event, Committed):
            self._committed(event.segment)
        elif isinstance(event, BufferFull):
            self._out.error(
                f"the input buffer holds its longest turn ({event.at_ms} ms were heard); what "
                "follows is dropped until input_audio_buffer.commit or .clear",
                code="input_audio_buffer_full",
            )
        else:
            self._speaking.take(event, self.config, draining=self._draining)
        return self._settle()

    def reply(self, generation: int, event: SessionReply) -> list[Action]:
        """Take the next event of a reply; those of cancelled and unknown ones show nothing."""
        if self.closed:
            return []
        self._responses.reply(generation, event)
        return self._settle()

    def transcript(self, item_id: str, text: str, *, final: bool = True) -> list[Action]:
        """Take what was recognised of an item: one more piece, or with `final` the whole."""
        if not self.closed:
            self._transcripts.take(item_id, text, final=final)
        return self._out.take()

    def transcript_failed(self, item_id: str, message: str) -> list[Action]:
        """Take that an item could not be recognised."""
        if not self.closed:
            self._transcripts.fail(item_id, message)
        return self._out.take()

    def tick(self, now_ms: float) -> list[Action]:
        """Take the time of any monotonic clock: a session does not live for ever."""
        if self.closed:
            return []
        self._began_ms = now_ms if self._began_ms is None else self._began_ms
        longest = self.limits.max_session_s
        if longest is not None and now_ms - self._began_ms >= 1000 * longest:
            self._out.error(
                f"a session must end after {longest:g} s; open another", code="session_expired"
            )
            self._close(_NORMAL, "session expired")
        return self._settle()

    def drain(self) -> list[Action]:
        """Begin no more responses; close once those that are being made have ended."""
        self._draining = True
        return [] if self.closed else self._settle()

    def disconnected(self) -> list[Action]:
        """Take that the client is gone: stop all work for it."""
        if self.closed:
            return []
        self.closed = True
        self._speaking.drop()
        self._responses.forget_all()
        return self._out.take()

    def _settle(self) -> list[Action]:
        if self._draining and not self.closed and self._responses.idle:
            self._close(_GOING_AWAY, "the server is shutting down")
        return self._out.take()

    def _close(self, code: int, reason: str) -> None:
        self._speaking.drop()
        self._responses.stop_all()
        self.closed = True
        self._out.add(Close(code=code, reason=reason))

    # The eleven events

    def _update(self, event: SessionUpdate) -> None:
        old, has_spoken = self.config, self._responses.has_spoken
        self.config = self._config_reader.session(old, event["session"], has_spoken=has_spoken)
        settings = self._turn_settings(self.config)
        if settings != self._turn_settings(old):
            self._speaking.drop()
            self._out.add(Tune(settings=settings))
        self._out.send("session.updated", session=self.config.event(self.id, self.model.name))

    def _append(self, event: InputAudioAppend) -> None:
        sound = self.config.input_format
        samples = sound.decode(event["audio"], param="audio", max_s=self.limits.max_append_s)
        if len(samples):
            self._out.add(Listen(samples=samples))

    def _commit(self, event: InputAudioCommit) -> None:
        self._speaking.drop()
        self._commits.append(event.get("event_id"))
        self._out.add(CommitAudio())

    def _clear(self, event: InputAudioClear) -> None:  # noqa: ARG002
        self._speaking.clear()
        self._out.add(ClearAudio())
        self._out.send("input_audio_buffer.cleared")

    def _clear_output(self, event: OutputAudioClear) -> None:  # noqa: ARG002
        response_id = self._responses.clear_output()
        self._out.add(DropAudio(response_id=response_id))
        self._out.send("output_audio_buffer.cleared", response_id=response_id)

    def _create_item(self, event: ItemCreate) -> None:
        item = self._item_reader.read(event["item"], self.config.input_format, param="item")
        self._conversation.create(item, event.get("previous_item_id"))

    def _retrieve_item(self, event: ItemRetrieve) -> None:
        self._conversation.retrieve(event["item_id"], self.config.input_format)

    def _delete_item(self, event: ItemDelete) -> None:
        self._conversation.delete(event["item_id"])

    def _truncate_item(self, event: ItemTruncate) -> None:
        item = self._conversation.check_truncate(event)
        self._responses.cut(item)
        self._conversation.truncate(item, event["audio_end_ms"])

    def _create_response(self, event: ResponseCreate) -> None:
        patch = event.get("response") or {}
        out_of_band = patch.get("conversation") == "none"
        if self._draining:
            raise ProtocolError("the server is shutting down", code="server_shutting_down")
        self._responses.check_room(out_of_band=out_of_band)
        config = self._config_reader.response(self.config, patch)
        given = patch.get("input")
        items = list(self._conversation.items) if given is None else self._given(given)
        ask = patch.get("instructions")
        request = build_request(
            items,
            config,
            self.model,
            ask=ask,
            standing=self.config.instructions,
            out_of_band=out_of_band,
        )
        if not out_of_band:
            self._speaking.drop()
        self._responses.start(request, config, metadata=patch.get("metadata"))

    def _cancel_response(self, event: ResponseCancel) -> None:
        self._responses.cancel(event.get("response_id"))

    # A table of the class: bound methods in each session would be a cycle, and keep one that has
    # ended, sound and all, until the garbage collector comes by.
    _HANDLERS: ClassVar[dict[str, Callable[["Session", Any], None]]] = {
        "session.update": _update,
        "input_audio_buffer.append": _append,
        "input_audio_buffer.commit": _commit,
        "input_audio_buffer.clear": _clear,
        "output_audio_buffer.clear": _clear_output,
        "conversation.item.create": _create_item,
        "conversation.item.retrieve": _retrieve_item,
        "conversation.item.delete": _delete_item,
        "conversation.item.truncate": _truncate_item,
        "response.create": _create_response,
        "response.cancel": _cancel_response,
    }

    # Parts

    def _given(self, given: list[InputItem]) -> list[Item]:
        """Read what a response is to answer in place of the conversation."""
        if len(given) > self.limits.max_items:
            raise ProtocolError(
                f"response.input must hold at most {self.limits.max_items} items, got {len(given)}",
                code="invalid_value",
                param="response.input",
            )
        items: list[Item] = []
        for place, one in enumerate(given):
            param = f"response.input[{place}]"
            if one["type"] == "item_reference":
                items.append(self._conversation.find(one["id"], f"{param}.id"))
            else:
                items.append(self._item_reader.read(one, self.config.input_format, param=param))
        return items

    def _committed(self, segment: Audio) -> None:
        """Make an item of what the detector held, as a client asked."""
        if not self._commits:
            return
        event_id = self._commits.pop(0)
        try:
            self._speaking.commit(segment, self.config, self.limits)
        except ProtocolError as error:
            self._out.refuse(error, event_id=event_id)

    def _turn_settings(self, config: SessionConfig) -> TurnSettings:
        return config.turn_settings(self.model.turns, speculate=self.model.speculate)
