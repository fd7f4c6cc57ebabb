"""What is asked of a chat server, what comes back, and what it cost."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from llama_omni.errors import ConfigError

Message = Mapping[str, str]  # {"role": "system" | "user" | "assistant", "content": ...}
JsonSchema = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatOptions:
    """Where the server is, how it samples, how hard it is tried, and what it charges."""

    base_url: str  # up to and including the version: "https://api.openai.com/v1"
    model: str
    api_key_env: str = "OPENAI_API_KEY"  # environment variable; local servers need none
    temperature: float | None = 0.7  # None leaves it to the server, as with the next three
    top_p: float | None = None
    max_tokens: int | None = 512  # of one reply
    seed: int | None = 0  # another seed is another request, so nothing of it is cached yet
    extra: Mapping[str, Any] = field(default_factory=dict)  # further fields of the request body
    concurrency: int = 8  # requests under way at once
    look_ahead: int = 32  # `ask_many` starts this many before the first is handed out
    requests_per_minute: float | None = None
    tries: int = 6  # of one request, for failures other than a rate limit
    patience_s: float = 600.0  # longest stay of one request behind rate limits
    backoff_s: float = 1.0  # first wait after a failure; doubles up to `max_backoff_s`
    max_backoff_s: float = 60.0
    timeout_s: float = 120.0  # of one try
    input_price: float = 0.0  # dollars per million tokens
    output_price: float = 0.0
    cache: Path | None = None  # file of paid replies, shared by any number of processes

    def __post_init__(self) -> None:
        if not self.base_url.startswith(("http://", "https://")):
            raise ConfigError(f"base_url must begin with http:// or https://, got {self.base_url}")
        if not self.model:
            raise ConfigError("model must be a name that the server knows, got an empty one")
        for name in ("concurrency", "look_ahead", "tries"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ConfigError(f"max_tokens must be at least 1, got {self.max_tokens}")
        for name in ("patience_s", "backoff_s", "max_backoff_s", "input_price", "output_price"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not self.timeout_s > 0:
            raise ConfigError(f"timeout_s must be above 0, got {self.timeout_s}")
        if self.requests_per_minute is not None and not self.requests_per_minute > 0:
            raise ConfigError(
                f"requests_per_minute must be above 0, got {self.requests_per_minute}"
            )
        try:
            json.dumps(dict(self.extra))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"extra must be plain JSON values, got {self.extra}") from error

    @property
    def address(self) -> str:
        """Where requests go."""
        return f"{self.base_url.rstrip('/')}/chat/completions"

    @property
    def sampling(self) -> dict[str, Any]:
        """The fields of a request that shape its reply, without those left to the server."""
        given = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_tokens,
            "seed": self.seed,
        }
        return {name: value for name, value in given.items() if value is not None}

    @property
    def api_key(self) -> str:
        """The key, or a stand-in where the variable is not set."""
        return os.environ.get(self.api_key_env) or "none"


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatReply:
    """A reply that can be used."""

    text: str
    value: Any = None  # what the text holds, where a schema was given
    input_tokens: int = 0  # of every request it took
    output_tokens: int = 0
    cached: bool = False  # nothing was paid for it in this run


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatFailure:
    """Why a request brought nothing that can be used; asking again would not help."""

    kind: Literal["refused", "empty", "truncated", "malformed", "rejected"]
    detail: str  # the server's words, or what is wrong with them
    input_tokens: int = 0
    output_tokens: int = 0
    cached: bool = False

    @property
    def reason(self) -> str:
        """One line for a list of rejects."""
        detail = " ".join(self.detail.split())
        short = detail if len(detail) <= 120 else f"{detail[:117]}..."
        return f"{self.kind}: {short}" if short else self.kind


ChatOutcome = ChatReply | ChatFailure


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatUsage:
    """What an endpoint has done so far in this process."""

    replies: int = 0  # requests that were answered and paid
    cached: int = 0  # requests whose reply was on disk
    retries: int = 0
    uncounted: int = 0  # replies whose tokens the server did not tell
    input_tokens: int = 0  # paid
    output_tokens: int = 0
    saved_input_tokens: int = 0  # of cached replies
    saved_output_tokens: int = 0
    cost: float = 0.0  # dollars, at the prices of the options
    saved: float = 0.0

    def __str__(self) -> str:
        text = (
            f"{self.replies:,} replies, {self.cached:,} from the cache, {self.retries:,} retries; "
            f"{self.input_tokens:,} tokens in, {self.output_tokens:,} out, ${self.cost:.4f}"
        )
        if self.saved:
            text += f" (${self.saved:.4f} saved)"
        if self.uncounted:
            text += f"; {self.uncounted:,} replies came without a token count"
        return text
