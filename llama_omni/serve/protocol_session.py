"""What a client may set: the parts of a session and of one response, as types."""

from typing import Annotated, Any, Literal, NotRequired, Required

from pydantic import Discriminator, Field, Tag, with_config
from typing_extensions import TypedDict

from llama_omni.serve.protocol_items import STRICT, Id, InputItem

Modalities = Annotated[list[Literal["text", "audio"]], Field(min_length=1, max_length=1)]
Short = Annotated[str, Field(max_length=128)]


def _kind(value: Any) -> str:
    return type(value).__name__


_TEXT_OR_OBJECT = Discriminator(
    _kind, custom_error_type="kind", custom_error_message="must be a string or an object"
)


@with_config(STRICT)
class Pcm(TypedDict):
    """16 bit little-endian, mono."""

    type: Literal["audio/pcm"]
    rate: NotRequired[Literal[24_000] | None]


@with_config(STRICT)
class G711(TypedDict):
    """8 bit at 8 kHz, mu-law or A-law."""

    type: Literal["audio/pcmu", "audio/pcma"]


Format = Annotated[Pcm | G711, Field(discriminator="type")]


@with_config(STRICT)
class ServerVad(TypedDict):
    """A turn ends after so much silence."""

    type: Literal["server_vad"]
    threshold: NotRequired[Annotated[float, Field(gt=0, le=1)]]
    prefix_padding_ms: NotRequired[Annotated[int, Field(ge=0, le=5_000)]]
    silence_duration_ms: NotRequired[Annotated[int, Field(ge=0, le=10_000)]]
    idle_timeout_ms: NotRequired[Annotated[int, Field(ge=100, le=600_000)] | None]
    create_response: NotRequired[bool]
    interrupt_response: NotRequired[bool]


@with_config(STRICT)
class SemanticVad(TypedDict):
    """A turn ends sooner or later, by how finished it sounds."""

    type: Literal["semantic_vad"]
    eagerness: NotRequired[Literal["low", "medium", "high", "auto"]]
    create_response: NotRequired[bool]
    interrupt_response: NotRequired[bool]


@with_config(STRICT)
class Transcription(TypedDict, total=False):
    """Whether what is said is written down; the server's own recogniser does it."""

    model: Short | None
    language: Short | None
    prompt: Annotated[str, Field(max_length=4_096)] | None
    languages: Annotated[list[Short], Field(max_length=64)] | None
    keywords: Annotated[list[Short], Field(max_length=256)] | None
    delay: Literal["minimal", "low", "medium", "high", "xhigh"] | None


@with_config(STRICT)
class NoiseReduction(TypedDict, total=False):
    """Taken and not in force."""

    type: Literal["near_field", "far_field"]
    strength: float | None


@with_config(STRICT)
class AudioInput(TypedDict, total=False):
    """What comes from the client."""

    format: Format
    transcription: Transcription | None
    noise_reduction: NoiseReduction | None
    turn_detection: Annotated[ServerVad | SemanticVad, Field(discriminator="type")] | None


@with_config(STRICT)
class VoiceId(TypedDict):
    """A voice as an object."""

    id: Id


Voice = Annotated[
    Annotated[Id, Tag("str")] | Annotated[VoiceId, Tag("dict")],
    _TEXT_OR_OBJECT,
]


@with_config(STRICT)
class AudioOutput(TypedDict, total=False):
    """What goes to the client."""

    format: Format
    voice: Voice
    speed: Annotated[float, Field(ge=0.25, le=1.5)]


@with_config(STRICT)
class Audio(TypedDict, total=False):
    """Both ways."""

    input: AudioInput
    output: AudioOutput


@with_config(STRICT)
class FunctionTool(TypedDict):
    """A function that the model may ask for."""

    type: Literal["function"]
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: NotRequired[str | None]
    parameters: NotRequired[dict[str, Any] | None]


@with_config(STRICT)
class NamedFunction(TypedDict):
    """The function that must be asked for."""

    type: Literal["function"]
    name: str


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("str")]
    | Annotated[NamedFunction, Tag("dict")],
    _TEXT_OR_OBJECT,
]
MaxTokens = Annotated[
    Annotated[Literal["inf"], Tag("str")] | Annotated[int, Field(ge=1, le=4_096), Tag("int")],
    Discriminator(
        _kind,
        custom_error_type="kind",
        custom_error_message="must be a whole number from 1 to 4096 or 'inf'",
    ),
]
Tracing = Annotated[
    Annotated[Literal["auto"], Tag("str")] | Annotated[dict[str, Any], Tag("dict")],
    _TEXT_OR_OBJECT,
]
Truncation = Annotated[
    Annotated[Literal["auto", "disabled"], Tag("str")] | Annotated[dict[str, Any], Tag("dict")],
    _TEXT_OR_OBJECT,
]
Temperature = Annotated[float, Field(ge=0, le=2)]


@with_config(STRICT)
class SessionPatch(TypedDict, total=False):
    """What `session.update` changes: the fields that are there."""

    type: Required[Literal["realtime"]]
    model: str
    output_modalities: Modalities
    instructions: str
    audio: Audio
    tools: list[FunctionTool]
    tool_choice: ToolChoice
    max_output_tokens: MaxTokens
    temperature: Temperature  # an addition to the API
    tracing: Tracing | None
    truncation: Truncation | None
    include: list[Literal["item.input_audio_transcription.logprobs"]] | None
    prompt: None
    reasoning: dict[str, Any] | None
    parallel_tool_calls: bool | None


@with_config(STRICT)
class ResponseOutput(TypedDict, total=False):
    """The sound of one response."""

    format: Format
    voice: Voice


@with_config(STRICT)
class ResponseAudio(TypedDict, total=False):
    """The sound of one response."""

    output: ResponseOutput


Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=16),
]


@with_config(STRICT)
class ResponsePatch(TypedDict, total=False):
    """How one response differs from the session."""

    conversation: Literal["auto", "none"] | None
    input: list[InputItem] | None
    output_modalities: Modalities
    instructions: str
    audio: ResponseAudio
    tools: list[FunctionTool]
    tool_choice: ToolChoice
    max_output_tokens: MaxTokens
    temperature: Temperature  # an addition to the API
    metadata: Metadata | None
    prompt: None
    reasoning: dict[str, Any] | None
    parallel_tool_calls: bool | None
