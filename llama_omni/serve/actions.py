"""What a session asks of the server around it. The server does them in order, without waiting."""

from dataclasses import dataclass
from typing import Any, Literal

from llama_omni.interfaces import Audio, ReplyOptions, Turn
from llama_omni.serve.turn_settings import TurnSettings

Status = Literal["completed", "cancelled", "incomplete", "failed"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ReplyRequest:
    """What a reply answers, and how."""

    turns: tuple[Turn, ...]  # the history and, last, the question; instructions are turn 0
    options: ReplyOptions
    voice: str
    out_of_band: bool = False  # answer beside the conversation, and forget it
    tools: tuple[dict[str, Any], ...] = ()
    tool_choice: str | dict[str, Any] = "auto"
    items: tuple[dict[str, Any], ...] = ()  # where the model has tools: the history as items
    key: tuple[Any, ...] = ()  # equal for requests that ask the same


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Send:
    """Write this server event to the client."""

    event: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Listen:
    """Feed the turn detector."""

    samples: Audio  # (S,) at the session's input rate


@dataclass(frozen=True, kw_only=True, slots=True)
class Tune:
    """Use a turn detector with these settings from here on."""

    settings: TurnSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class CommitAudio:
    """Take what the detector holds as a turn; answer with `Session.turn(Committed(...))`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClearAudio:
    """Let the detector forget what it holds."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Prepare:
    """Begin a reply that nobody sees; it may be left out under load."""

    generation: int
    request: ReplyRequest


@dataclass(frozen=True, kw_only=True, slots=True)
class Abandon:
    """Drop a prepared reply."""

    generation: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StartReply:
    """Make a reply, or show the prepared one, and hand its events to `Session.reply`."""

    generation: int
    response_id: str
    request: ReplyRequest
    prepared: bool  # whether a `Prepare` of this generation came before


@dataclass(frozen=True, kw_only=True, slots=True)
class CancelReply:
    """Stop a reply now; nothing more of it will be shown."""

    generation: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TruncateReply:
    """Keep of a reply in the model's history only what was heard."""

    generation: int
    item_id: str
    content_index: int
    audio_end_ms: int
    samples: int  # the same place at the reply's own rate


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """A response has ended: for metrics, and for the wait of an idle timeout."""

    generation: int
    response_id: str
    status: Status
    audio_ms: int  # sound that was sent
    out_of_band: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class DropAudio:
    """Drop this response's sound that waits to be written to the client."""

    response_id: str


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Transcribe:
    """Write down what was said; answer with `transcript` or `transcript_failed`."""

    item_id: str
    audio: Audio  # (S,) at 16 kHz
    language: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Close:
    """Write what waits, then close the connection."""

    code: int  # of the WebSocket
    reason: str


Action = (
    Send
    | Listen
    | Tune
    | CommitAudio
    | ClearAudio
    | Prepare
    | Abandon
    | StartReply
    | CancelReply
    | TruncateReply
    | Finished
    | DropAudio
    | Transcribe
    | Close
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolCall:
    """A model's wish to have a function called: an event of a reply, beside text and sound."""

    name: str
    arguments: str  # JSON
    call_id: str | None = None  # None: one is made up


@dataclass(frozen=True, kw_only=True, slots=True)
class InputUsage:
    """How many tokens a reply's question and history took: told before its last event."""

    text_tokens: int
    audio_tokens: int
    cached_tokens: int = 0  # of both together, already in the model's cache
