"""What a session is told about the model behind it, and how much a client may send."""

from dataclasses import dataclass, field

from llama_omni.errors import ConfigError
from llama_omni.interfaces import ReplyOptions
from llama_omni.serve.turn_settings import TurnSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionLimits:
    """How much one client may send or keep. Every refusal names the limit."""

    max_event_bytes: int = 15 * 2**20  # UTF-8 of one event, as in OpenAI's service
    max_append_s: float = 60.0  # sound in one `input_audio_buffer.append`
    max_instruction_chars: int = 32_768
    max_item_chars: int = 65_536  # all texts of one item
    max_tools: int = 64
    max_tool_chars: int = 65_536  # all tools together, as JSON
    max_items: int = 256  # of the conversation; the oldest make room for what is spoken
    max_audio_s: float = 600.0  # spoken items together; the oldest make room
    max_turn_s: float = 30.0  # one spoken item
    min_turn_s: float = 0.1  # one spoken item: one speech embedding
    max_out_of_band: int = 2  # replies outside of the conversation at one time
    max_errors: int = 100  # one after the other, with nothing right between them: then closed
    max_session_s: float | None = 3_600.0  # None is for ever
    max_delta_s: float = 1.0  # sound in one `response.output_audio.delta`

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            least = 0 if name == "max_out_of_band" else None
            if value is not None and (value < least if least is not None else value <= 0):
                raise ConfigError(f"limits.{name} must be above 0, got {value}")
        if self.min_turn_s > self.max_turn_s or self.max_items < 2:
            raise ConfigError(
                "limits.min_turn_s must be at most max_turn_s and max_items at least 2, got "
                f"{self.min_turn_s}, {self.max_turn_s} and {self.max_items}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFacts:
    """What the model behind a session can do, and what a session begins with."""

    name: str = "llama-omni"
    sample_rate: int = 16_000  # Hz: of its replies
    voices: tuple[str, ...] = ("default",)  # the API's own names are taken for the first one
    tools: bool = False  # whether its chat template has function tools
    recognizer: bool = False  # whether what is said can be written down
    speculate: bool = True  # whether replies may be prepared before a turn is over
    max_output_tokens: int = 1_024  # of one reply, whatever a client asks for
    instructions: str = ""  # of a new session; "" is the model's own
    options: ReplyOptions = field(default_factory=ReplyOptions)
    turns: TurnSettings = field(default_factory=TurnSettings)

    def __post_init__(self) -> None:
        if not self.voices or not self.name:
            raise ConfigError(f"a model must have a name and a voice, got {self.name!r}")
        if self.max_output_tokens < 1:
            raise ConfigError(
                f"model.max_output_tokens must be at least 1, got {self.max_output_tokens}"
            )
