"""How the server around all sessions is set up."""

from dataclasses import dataclass, field
from pathlib import Path

from llama_omni.errors import ConfigError
from llama_omni.serve.limits import ModelFacts, SessionLimits


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeSettings:
    """Knobs of the server. What one session may do is in `limits`."""

    model: ModelFacts = field(default_factory=ModelFacts)
    limits: SessionLimits = field(default_factory=SessionLimits)
    keys: tuple[str, ...] = field(default=(), repr=False)  # (): only callers on this machine
    origins: tuple[str, ...] = ()  # of pages from elsewhere that may connect; "*" is any
    max_sessions: int = 64  # open at a time; more are refused with 503
    max_per_address: int | None = None  # of them, from one address; more are refused with 429
    max_unsent_bytes: int = 8 * 2**20  # that wait for a client to read: 2 minutes of PCM
    send_timeout_s: float = 20.0  # for one event to be taken by a client's socket
    ping_s: float = 20.0  # between pings; a client that answers none for as long again is gone
    drain_s: float = 30.0  # for responses to end after SIGTERM
    hearing_threads: int = 4  # that run turn detectors
    max_secrets: int = 10_000  # client secrets that are valid at a time
    record: Path | None = None  # where every session is recorded; None: nothing is kept

    def __post_init__(self) -> None:
        for name in ("max_sessions", "max_unsent_bytes", "hearing_threads", "max_secrets"):
            if getattr(self, name) < 1:
                raise ConfigError(f"serve.{name} must be at least 1, got {getattr(self, name)}")
        if self.max_per_address is not None and self.max_per_address < 1:
            raise ConfigError(
                f"serve.max_per_address must be at least 1, got {self.max_per_address}"
            )
        for name in ("send_timeout_s", "ping_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"serve.{name} must be above 0, got {getattr(self, name)}")
        if self.drain_s < 0:
            raise ConfigError(f"serve.drain_s must be at least 0, got {self.drain_s}")
        for origin in self.origins:
            if origin != "*" and (not origin.startswith(("http://", "https://")) or " " in origin):
                raise ConfigError(
                    "serve.origins must be like https://example.org or *, got " + repr(origin)
                )
