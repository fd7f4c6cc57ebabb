"""Knobs of the engine that serves many conversations."""

from dataclasses import dataclass

from llama_omni.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSettings:
    """What one step may hold, what is kept, and who comes first.

    One step reads at most `listen_s` seconds of questions (or one longer question) and
    `prefill_positions` positions of prompts, makes one token for each of `max_rows` replies, and
    gives the vocoder at most `vocode_units` units (or one larger chunk). That is the longest that a
    newcomer can hold up the sound of the others.
    """

    cache_bytes: int | None = None  # of all caches; None: a share of the memory that is free
    max_waiting: int = 64  # replies that wait for room; more are refused
    prefill_positions: int = 256  # of prompts, read in one step
    listen_s: float = 30.0  # seconds of questions, encoded in one step
    max_rows: int = 64  # replies that a step gives a token
    cheap_rows: int = 1  # rows that a step holds in any case: fewer would save no time
    vocode_units: int = 1_000  # in one step
    low_water_s: float = 0.5  # seconds of buffered sound below which a listener may run dry
    far_ahead_s: float = 4.0  # seconds of buffered sound from which a reply yields to others
    prepare_s: float = 2.0  # seconds of sound that a reply makes before it is committed
    patience: int = 3  # steps that newcomers wait while a listener has run dry
    chunk_growth: float = 0.5  # a later chunk lasts this share of what is buffered; 0: fixed Omega
    max_chunk_s: float = 4.0  # seconds that a chunk lasts at most, if it has grown
    forget: bool = True  # leave out the beginning of a conversation that is too long
    written_hz: float = 20.0  # tokens a second that the reader of a written reply takes

    def __post_init__(self) -> None:
        for name in ("prefill_positions", "max_rows", "vocode_units", "max_waiting", "patience"):
            if getattr(self, name) < 1:
                raise ConfigError(f"engine.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("listen_s", "low_water_s", "prepare_s", "max_chunk_s", "written_hz"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"engine.{name} must be above 0, got {getattr(self, name)}")
        if self.cache_bytes is not None and self.cache_bytes < 1:
            raise ConfigError(f"engine.cache_bytes must be above 0, got {self.cache_bytes}")
        if not 0 <= self.cheap_rows <= self.max_rows:
            raise ConfigError(
                f"engine.cheap_rows must be 0 to max_rows={self.max_rows}, got {self.cheap_rows}"
            )
        if self.far_ahead_s < self.low_water_s:
            raise ConfigError(
                f"engine.far_ahead_s must be at least low_water_s={self.low_water_s}, got "
                f"{self.far_ahead_s}"
            )
        if not 0.0 <= self.chunk_growth < 1.0:
            raise ConfigError(
                f"engine.chunk_growth must be at least 0 and below 1, got {self.chunk_growth}"
            )
