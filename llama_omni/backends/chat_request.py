"""One request to a chat server, tried until it is answered or clearly will not be.

The `openai` package's own retries are turned off: each of its threads would wait for itself, and
it forgets a Retry-After above a minute. Here one rate limit makes all threads wait.
"""

import email.utils
import json
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from llama_omni.backends.chat_cache import StoredReply
from llama_omni.backends.chat_options import ChatFailure, ChatOptions, Message
from llama_omni.errors import MissingExtraError, ToolError

REFUSED = (400, 413, 422)  # this request, not the server
AGAIN = (408, 409, 425)  # and 5xx
HOPELESS_CODES = ("insufficient_quota", "billing_hard_limit_reached")


class Pace:
    """When the next request may start: shared by all threads of an endpoint."""

    def __init__(
        self, requests_per_minute: float | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._interval_s = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._clock = clock
        self._lock = threading.Lock()
        self._next_s = clock()

    def reserve(self) -> float:
        """Take the next start; return the seconds until then."""
        with self._lock:
            now = self._clock()
            start = max(now, self._next_s)
            self._next_s = start + self._interval_s
            return start - now

    def pause(self, seconds: float) -> None:
        """Let nobody start for so many seconds."""
        with self._lock:
            self._next_s = max(self._next_s, self._clock() + seconds)


class Requester:
    """Sends requests, at most `concurrency` at once and `requests_per_minute`."""

    def __init__(self, options: ChatOptions) -> None:
        try:
            import openai
        except ImportError as error:
            raise MissingExtraError("openai", "data", "a chat endpoint") from error
        self.options = options
        self._openai = openai
        self._key = options.api_key
        self._client = openai.OpenAI(
            base_url=options.base_url,
            api_key=self._key,
            timeout=options.timeout_s,
            max_retries=0,
        )
        self._pace = Pace(options.requests_per_minute)
        self._places = threading.Semaphore(options.concurrency)
        self._lock = threading.Lock()
        self._retries = 0

    @property
    def retries(self) -> int:
        """Tries that were not the first of their request."""
        return self._retries

    def send(
        self, messages: Sequence[Message], fields: dict[str, Any], stop: threading.Event
    ) -> StoredReply | ChatFailure:
        """Return the server's reply, or a failure where it refuses this one request.

        Raises:
            ToolError: the server is absent, fails or limits for too long, or refuses all.
        """
        options = self.options
        begun = time.monotonic()
        failures, limits = 0, 0
        with self._places:
            while True:
                if stop.wait(self._pace.reserve()):
                    raise self._error(messages, "the work was stopped")
                try:
                    return self._once(messages, fields)
                except self._openai.APIStatusError as error:
                    status, problem = error.status_code, self._words(error)
                    wait_s = _retry_after(error.response.headers)
                    if status in REFUSED:
                        return ChatFailure(kind="rejected", detail=problem)
                    limited = status == 429
                    fatal = not (limited or status in AGAIN or status >= 500)
                    if fatal or str(error.code) in HOPELESS_CODES:
                        raise self._error(messages, self._hint(status, problem)) from error
                    cause = error
                except (self._openai.APIError, ValueError) as error:
                    limited, wait_s, problem, cause = False, None, self._words(error), error
                limits, failures = limits + limited, failures + (not limited)
                spent = time.monotonic() - begun
                if failures >= options.tries:
                    found = f"{problem}, after {failures} tries in {spent:.0f} s"
                    raise self._error(messages, found) from cause
                if wait_s is None:
                    doubled = options.backoff_s * 2.0 ** min(failures + limits - 1, 30)
                    wait_s = min(doubled, options.max_backoff_s)
                if limited and spent + wait_s > options.patience_s:
                    found = f"{problem}; it asks for {wait_s:.0f} s more, after {spent:.0f} s"
                    raise self._error(messages, found) from cause
                with self._lock:
                    self._retries += 1
                if limited:
                    self._pace.pause(wait_s)
                elif stop.wait(min(wait_s, options.patience_s)):
                    raise self._error(messages, "the work was stopped") from cause

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _once(self, messages: Sequence[Message], fields: dict[str, Any]) -> StoredReply:
        completions: Any = self._client.chat.completions.with_raw_response
        raw = completions.create(
            model=self.options.model,
            messages=[dict(message) for message in messages],
            extra_body=dict(self.options.extra) or None,
            **{**self.options.sampling, **fields},
        )
        return _read(raw.text)

    def _words(self, error: Exception) -> str:
        """Say an error in one line, without the key."""
        text = str(error) or type(error).__name__
        below = error.__cause__
        if isinstance(error, self._openai.APIConnectionError) and below is not None:
            text = f"{text} ({below or type(below).__name__})"
        text = " ".join(text.split())[:300]
        return text.replace(self._key, "***") if len(self._key) > 4 else text

    def _hint(self, status: int, problem: str) -> str:
        name = self.options.api_key_env
        if status in (401, 403):
            return f"{problem}; the key is read from the environment variable {name}"
        if status == 404:
            return f"{problem}; base_url must end in the API's version, and the model must exist"
        return problem

    def _error(self, messages: Sequence[Message], found: str) -> ToolError:
        asked = " ".join(messages[-1]["content"].split()) if messages else ""
        short = asked if len(asked) <= 60 else f"{asked[:57]}..."
        kept = self.options.cache
        text = f"{self.options.address} must answer model {self.options.model!r}, got: {found}"
        text += f" (asked: {short!r})"
        return ToolError(text + (f"; paid replies are kept in {kept}" if kept else ""))


def _read(text: str) -> StoredReply:
    """Read a chat completion.

    Raises:
        ValueError: it is none.
    """
    try:
        body = json.loads(text)
        choice = body["choices"][0]
        message = choice["message"]
        usage = body.get("usage")
        counts = usage if isinstance(usage, dict) else {}
        return StoredReply(
            text=str(message.get("content") or ""),
            refusal=str(message.get("refusal") or ""),
            finish_reason=str(choice.get("finish_reason") or ""),
            input_tokens=_tokens(counts.get("prompt_tokens")),
            output_tokens=_tokens(counts.get("completion_tokens")),
        )
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"no chat completion but {text[:80]!r}") from error


def _tokens(value: Any) -> int | None:
    """Return a count of tokens, which some servers send as text; None for anything else."""
    try:
        count = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return count if count >= 0 else None


def _retry_after(headers: Any) -> float | None:
    """Return the seconds that a server asks to wait, None where it does not say."""
    for name, scale in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers[name]) * scale)
        except (KeyError, ValueError):
            continue
    try:
        when = email.utils.parsedate_to_datetime(headers["retry-after"])
    except (KeyError, ValueError):
        return None
    return max(0.0, when.timestamp() - time.time())
