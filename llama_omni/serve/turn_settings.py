"""When a turn begins and ends: what a client sets, and what the server does."""

from dataclasses import dataclass
from typing import Literal

from llama_omni.errors import ConfigError

Mode = Literal["server_vad", "semantic_vad", "none"]
Eagerness = Literal["low", "medium", "high", "auto"]

_HYSTERESIS = 0.15  # how far below the threshold a voice must fall to count as silent


@dataclass(frozen=True, kw_only=True, slots=True)
class TurnSettings:
    """Knobs of the turn detector. Defaults are the Realtime API's where it has the knob.

    Waits are rounded up to whole chunks of 32 ms.
    """

    mode: Mode = "server_vad"  # "none" is push-to-talk: the client commits
    sample_rate: int = 24_000  # Hz: of the session's input
    threshold: float = 0.5  # probability from which a chunk is speech
    prefix_padding_ms: int = 300  # sound before the first speech chunk that belongs to the turn
    silence_duration_ms: int = 500  # silence that ends a turn (server_vad)
    eagerness: Eagerness = "auto"  # how soon an unclear silence ends a turn (semantic_vad)
    idle_timeout_ms: int | None = None  # silence after a reply that is a turn of its own
    speculate: bool = True  # report short pauses
    short_pause_ms: int = 150  # silence after which a reply may be prepared
    post_roll_ms: int = 100  # sound after the last speech chunk that belongs to the turn
    min_speech_ms: int = 64  # speech that begins a turn, or goes on with one: no clicks
    max_turn_ms: int = 30_000  # a longer turn is cut; what a model hears at once

    def __post_init__(self) -> None:
        if not 4_000 <= self.sample_rate <= 192_000:
            raise ConfigError(f"sample_rate must be 4000 to 192000 Hz, got {self.sample_rate}")
        if not 0.0 < self.threshold <= 1.0:
            raise ConfigError(f"threshold must be above 0 and at most 1, got {self.threshold}")
        for name in ("prefix_padding_ms", "silence_duration_ms", "post_roll_ms", "min_speech_ms"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be at least 0 ms, got {getattr(self, name)}")
        if self.post_roll_ms > self.short_pause_ms:
            raise ConfigError(
                f"post_roll_ms must be at most short_pause_ms ({self.short_pause_ms}), which is "
                f"all that is heard when a reply is prepared, got {self.post_roll_ms}"
            )
        if self.idle_timeout_ms is not None and self.idle_timeout_ms < 1:
            raise ConfigError(f"idle_timeout_ms must be at least 1 ms, got {self.idle_timeout_ms}")
        shortest = self.prefix_padding_ms + self.min_speech_ms + self.post_roll_ms + 64
        if self.max_turn_ms < shortest:
            raise ConfigError(
                f"max_turn_ms must be at least {shortest} ms (padding, shortest speech and "
                f"post-roll), got {self.max_turn_ms}"
            )

    @property
    def silence_threshold(self) -> float:
        """Probability below which a chunk of a turn is silence."""
        return max(self.threshold - _HYSTERESIS, 0.5 * self.threshold)
