"""How the server around all sessions is set up."""

from dataclasses import dataclass, field

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
    max_unsent_bytes: int = 8 * 2**20  # that wait for a client to read: 2 minutes of PCM
    send_timeout_s: float = 20.0  # for one event to be taken by a client's socket
    drain_s: float = 30.0  # for responses to end after SIGTERM
    hearing_threads: int = 4  # that run turn detectors
    max_secrets: int = 10_000  # client secrets that are valid at a time

    def __post_init__(self) -> None:
        for name in ("max_sessions", "max_unsent_bytes", "hearing_threads", "max_secrets"):
            if getattr(self, name) < 1:
                raise ConfigError(f"serve.{name} must be at least 1, got {getattr(self, name)}")
        if self.send_timeout_s <= 0 or self.drain_s < 0:
            raise ConfigError(
                "serve.send_timeout_s must be above 0 and drain_s at least 0, got "
                f"{self.send_timeout_s} and {self.drain_s}"
            )
        for origin in self.origins:
            if origin != "*" and (not origin.startswith(("http://", "https://")) or " " in origin):
                raise ConfigError(
                    "serve.origins must be like https://example.org or *, got " + repr(origin)
                )
