"""How many talk, for how long, and from where on a device counts as saturated."""

from dataclasses import dataclass

from llama_omni.bench.settings import UNITS_PER_TOKEN
from llama_omni.errors import ConfigError
from llama_omni.interfaces import ReplyOptions

MODES = {"on": (True,), "off": (False,), "both": (True, False)}


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadSettings:
    """What the clients do. Defaults are a published run's."""

    clients: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)  # N, upward until the device saturates
    speculation: tuple[bool, ...] = (True, False)  # side by side
    seconds: float = 25.0  # in which turns begin; those that have begun are finished
    turns: int | None = None  # of each client, in place of `seconds`
    stagger_s: float = 6.0  # over which the clients' first turns are spread
    piece_s: tuple[float, float] = (0.02, 0.1)  # of sound, sent at a time; drawn anew each time
    inner_pause_s: tuple[float, float] = (0.2, 0.35)  # within a question
    inner_pauses: float = 0.5  # share of the questions that have one
    gap_s: tuple[float, float] = (0.5, 1.5)  # from the last sound of an answer to the next question
    answer_s: float = 30.0  # after which a client gives a turn up
    max_late: float = 0.05  # share of late pieces above which the device is saturated
    max_first_audio_s: float = 1.0  # the same, of p95 from the end of the turn
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.clients or min(self.clients) < 1:
            raise ConfigError(f"load.clients must be numbers above 0, got {self.clients}")
        if list(self.clients) != sorted(set(self.clients)):
            raise ConfigError(f"load.clients must grow from one to the next, got {self.clients}")
        if not self.speculation:
            raise ConfigError("load.speculation must be on, off or both, got neither")
        for name in ("seconds", "answer_s", "max_first_audio_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"load.{name} must be above 0, got {getattr(self, name)}")
        if self.turns is not None and self.turns < 1:
            raise ConfigError(f"load.turns must be at least 1, got {self.turns}")
        for name in ("inner_pauses", "max_late"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"load.{name} must be a share, 0 to 1, got {getattr(self, name)}")
        for name in ("piece_s", "inner_pause_s", "gap_s"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ConfigError(f"load.{name} must be seconds above 0, got {low} to {high}")


@dataclass(frozen=True, kw_only=True, slots=True)
class DirectSettings:
    """What stands for the turn detector and the protocol where the engine is driven directly.

    The waits are the server's defaults (`serve.turn_settings`).
    """

    tokens: int = 256  # of a reply
    question_s: float = 3.0  # of made-up speech
    listen_s: float | None = None  # then the listener interrupts; None hears every answer out
    short_pause_s: float = 0.15  # silence after which a reply is prepared
    silence_s: float = 0.5  # silence that ends a turn
    resume_s: float = 0.064  # speech after which a pause is known to be over
    post_roll_s: float = 0.1  # sound after the voice that the model hears

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise ConfigError(f"direct.tokens must be at least 1, got {self.tokens}")
        if self.question_s <= 0 or (self.listen_s is not None and self.listen_s <= 0):
            raise ConfigError(
                "direct.question_s and listen_s must be above 0, got "
                f"{self.question_s} and {self.listen_s}"
            )

    @property
    def options(self) -> ReplyOptions:
        """How replies of random weights are made: so many tokens, units on a schedule."""
        return ReplyOptions(max_new_tokens=self.tokens, units_per_token=UNITS_PER_TOKEN)
