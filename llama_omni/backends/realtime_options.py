"""Which Realtime server is asked, and how: `ws://HOST:PORT/v1?model=NAME&names=ga&pace=real`."""

import os
from dataclasses import dataclass, fields
from typing import Literal, get_args
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from llama_omni.errors import ConfigError

Names = Literal["auto", "ga", "beta"]
Pace = Literal["burst", "real"]

KEY_VARIABLES = ("OPENAI_API_KEY", "LLAMA_OMNI_API_KEY")
_PATH = "/realtime"


@dataclass(frozen=True, kw_only=True, slots=True)
class RealtimeOptions:
    """A server of the Realtime API, and how it is talked to."""

    url: str  # ws://HOST:PORT/v1; /realtime is added
    model: str = ""
    names: Names = "auto"  # of events: today's, those of the beta, or told by the server's first
    pace: Pace = "burst"  # the question's sound: at once, or as fast as it was spoken
    voice: str = ""  # "" is the server's own
    timeout_s: float = 60.0  # longest time without an event
    key_env: str = ""  # variable that holds the key; "" takes the first of KEY_VARIABLES set

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("ws", "wss") or not parts.netloc:
            raise ConfigError(
                f"a Realtime server must be ws://HOST:PORT/v1 or wss://..., got {self.url!r}"
            )
        if parts.query or parts.fragment:
            raise ConfigError(f"url must have no query of its own, got {self.url!r}")
        if not 0 < self.timeout_s < float("inf"):
            raise ConfigError(f"timeout_s must be above 0, got {self.timeout_s}")
        if self.key_env and not os.environ.get(self.key_env):
            raise ConfigError(f"key_env must name a variable that is set, got {self.key_env!r}")

    @classmethod
    def of(cls, spec: str) -> "RealtimeOptions":
        """Read a URL whose query holds the other fields.

        Raises:
            ConfigError: it is no such URL, or a field is unknown or impossible.
        """
        parts = urlsplit(spec)
        given = dict(parse_qsl(parts.query, keep_blank_values=True))
        known = [item.name for item in fields(cls) if item.name != "url"]
        for name in given:
            if name not in known:
                raise ConfigError(f"a Realtime server has no {name!r}; it has {', '.join(known)}")
        for name, kind in (("names", Names), ("pace", Pace)):
            if given.get(name, get_args(kind)[0]) not in get_args(kind):
                raise ConfigError(
                    f"{name} must be one of {', '.join(get_args(kind))}, got {given[name]!r}"
                )
        url = urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))
        try:
            timeout = float(given.pop("timeout_s", 60.0))
        except ValueError as error:
            raise ConfigError(f"timeout_s must be a number of seconds, got {spec!r}") from error
        return cls(url=url, timeout_s=timeout, **given)  # pyright: ignore[reportArgumentType]

    @property
    def address(self) -> str:
        """What is connected to."""
        base = self.url.rstrip("/")
        base = base if base.endswith(_PATH) else base + _PATH
        return f"{base}?{urlencode({'model': self.model})}" if self.model else base

    @property
    def headers(self) -> dict[str, str]:
        """The key, where there is one, and what the beta asks for."""
        variables = [self.key_env] if self.key_env else KEY_VARIABLES
        key = next((value for name in variables if (value := os.environ.get(name))), None)
        found = {"Authorization": f"Bearer {key}"} if key else {}
        return found | ({"OpenAI-Beta": "realtime=v1"} if self.names == "beta" else {})
