"""What a client may send: the eleven events of the Realtime API (GA), as types.

Pydantic checks events against these types, strictly: no unknown field, no "1" for 1. What depends
on a server's limits or on a session's state is checked where it is used. Many fields may be null,
because clients write out whole objects; null where a value would be needed is refused.
"""

from typing import Annotated, Literal, NotRequired

from pydantic import Field, with_config
from typing_extensions import TypedDict

from llama_omni.serve.protocol_items import STRICT, AnyItem, Id
from llama_omni.serve.protocol_session import ResponsePatch, SessionPatch

EventId = Annotated[str, Field(max_length=512)]


@with_config(STRICT)
class _Event(TypedDict):
    event_id: NotRequired[EventId | None]


@with_config(STRICT)
class SessionUpdate(_Event):
    """Change the session."""

    type: Literal["session.update"]
    session: SessionPatch


@with_config(STRICT)
class InputAudioAppend(_Event):
    """Hear this."""

    type: Literal["input_audio_buffer.append"]
    audio: str


@with_config(STRICT)
class InputAudioCommit(_Event):
    """Make a user's item of what was heard."""

    type: Literal["input_audio_buffer.commit"]


@with_config(STRICT)
class InputAudioClear(_Event):
    """Forget what was heard."""

    type: Literal["input_audio_buffer.clear"]


@with_config(STRICT)
class OutputAudioClear(_Event):
    """Cut off the sound of the response."""

    type: Literal["output_audio_buffer.clear"]


@with_config(STRICT)
class ItemCreate(_Event):
    """Put an item into the conversation."""

    type: Literal["conversation.item.create"]
    item: AnyItem
    previous_item_id: NotRequired[Id | None]


@with_config(STRICT)
class ItemRetrieve(_Event):
    """Send an item back, with its sound."""

    type: Literal["conversation.item.retrieve"]
    item_id: Id


@with_config(STRICT)
class ItemDelete(_Event):
    """Take an item out."""

    type: Literal["conversation.item.delete"]
    item_id: Id


@with_config(STRICT)
class ItemTruncate(_Event):
    """Keep of an answer what was heard."""

    type: Literal["conversation.item.truncate"]
    item_id: Id
    content_index: Annotated[int, Field(ge=0, le=2**31)]
    audio_end_ms: Annotated[int, Field(ge=0, le=2**31)]


@with_config(STRICT)
class ResponseCreate(_Event):
    """Answer."""

    type: Literal["response.create"]
    response: NotRequired[ResponsePatch | None]


@with_config(STRICT)
class ResponseCancel(_Event):
    """Stop answering."""

    type: Literal["response.cancel"]
    response_id: NotRequired[Id | None]


ClientEvent = (
    SessionUpdate
    | InputAudioAppend
    | InputAudioCommit
    | InputAudioClear
    | OutputAudioClear
    | ItemCreate
    | ItemRetrieve
    | ItemDelete
    | ItemTruncate
    | ResponseCreate
    | ResponseCancel
)
CLIENT_EVENTS: dict[str, type[ClientEvent]] = {
    "session.update": SessionUpdate,
    "input_audio_buffer.append": InputAudioAppend,
    "input_audio_buffer.commit": InputAudioCommit,
    "input_audio_buffer.clear": InputAudioClear,
    "output_audio_buffer.clear": OutputAudioClear,
    "conversation.item.create": ItemCreate,
    "conversation.item.retrieve": ItemRetrieve,
    "conversation.item.delete": ItemDelete,
    "conversation.item.truncate": ItemTruncate,
    "response.create": ResponseCreate,
    "response.cancel": ResponseCancel,
}
SERVER_EVENTS = (
    "error",
    "session.created",
    "session.updated",
    "conversation.item.added",
    "conversation.item.done",
    "conversation.item.retrieved",
    "conversation.item.deleted",
    "conversation.item.truncated",
    "conversation.item.input_audio_transcription.delta",
    "conversation.item.input_audio_transcription.completed",
    "conversation.item.input_audio_transcription.failed",
    "input_audio_buffer.committed",
    "input_audio_buffer.cleared",
    "input_audio_buffer.speech_started",
    "input_audio_buffer.speech_stopped",
    "input_audio_buffer.timeout_triggered",
    "output_audio_buffer.cleared",
    "response.created",
    "response.done",
    "response.output_item.added",
    "response.output_item.done",
    "response.content_part.added",
    "response.content_part.done",
    "response.output_text.delta",
    "response.output_text.done",
    "response.output_audio.delta",
    "response.output_audio.done",
    "response.output_audio_transcript.delta",
    "response.output_audio_transcript.done",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.done",
    "rate_limits.updated",
)
