"""`ChatEndpoint`: text from any server that speaks OpenAI's chat protocol.

Hosted or local (vLLM, SGLang, llama.cpp, Ollama and others). A request that brings nothing usable
is an outcome, since a data set loses one record by it; a server that brings nothing is an error.
"""

import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from llama_omni.backends.chat_cache import ReplyCache, StoredReply, content_key
from llama_omni.backends.chat_json import find_json, misfit
from llama_omni.backends.chat_options import (
    ChatFailure,
    ChatOptions,
    ChatOutcome,
    ChatReply,
    ChatUsage,
    JsonSchema,
    Message,
)
from llama_omni.backends.chat_request import Requester
from llama_omni.backends.parallel import in_order
from llama_omni.errors import ConfigError, ToolError

TRUST = 5  # so many requests refused before any was answered: it is the server or the options
INSTRUCTION = "Reply with one JSON object and nothing else. It must fit this JSON schema:\n{schema}"
REPAIR = "That does not fit: {problem}. Write the same reply again as one JSON object, no more."


class ChatEndpoint:
    """A chat server that is asked for texts; for any number of threads.

    Open one in each process: it pickles as its options.

    Args:
        options: where the server is and how it is asked.

    Raises:
        MissingExtraError: the package `openai` is not installed.
        OutputError: the cache cannot be opened.
    """

    def __init__(self, options: ChatOptions) -> None:
        self.options = options
        self._requester = Requester(options)
        self._cache = ReplyCache(options.cache) if options.cache is not None else None
        self._lock = threading.Lock()
        self._usage = ChatUsage()
        self._enforced = True  # until the server refuses `response_format`
        self._refused = 0
        self._under_way: dict[str, tuple[threading.Lock, int]] = {}

    def ask(
        self,
        messages: Sequence[Message],
        schema: JsonSchema | None = None,
        *,
        sample: int = 0,
        stop: threading.Event | None = None,
    ) -> ChatOutcome:
        """Return the reply to a conversation, or why there is none that can be used.

        Args:
            messages: the conversation so far, the last one the user's.
            schema: what the reply must hold, as JSON; it comes back as `ChatReply.value`. It is
                sent as `response_format` and in words, for servers that know only one of them; a
                reply that does not fit is sent back once.
            sample: which of several replies to the same request; it is added to the seed, and
                each is cached on its own.
            stop: set from outside, it ends waiting for the server with a `ToolError`.

        Raises:
            ToolError: the server is absent, fails or limits for too long, or refuses everything.
            OutputError: the cache cannot be read or written.
        """
        return self._ask(messages, schema, stop or threading.Event(), sample)

    def ask_many(
        self, conversations: Iterable[Sequence[Message]], schema: JsonSchema | None = None
    ) -> Iterator[ChatOutcome]:
        """Yield the outcome of each conversation, in order; see `ask`.

        They are asked in parallel, and taken from the iterable at most `look_ahead` before the
        one that is yielded next. Leaving the iterator stops what has not begun.
        """

        def work(messages: Sequence[Message], stop: threading.Event) -> ChatOutcome:
            return self._ask(messages, schema, stop)

        width, ahead = self.options.concurrency, self.options.look_ahead
        return in_order(work, conversations, workers=width, look_ahead=ahead)

    @property
    def usage(self) -> ChatUsage:
        """What was asked, paid and saved so far."""
        with self._lock:
            found = replace(self._usage, retries=self._requester.retries)
        return replace(
            found,
            cost=self._price(found.input_tokens, found.output_tokens),
            saved=self._price(found.saved_input_tokens, found.saved_output_tokens),
        )

    def close(self) -> None:
        """Give connections and cache back."""
        self._requester.close()
        if self._cache is not None:
            self._cache.close()

    def __enter__(self) -> "ChatEndpoint":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[type["ChatEndpoint"], tuple[ChatOptions]]:
        return ChatEndpoint, (self.options,)

    def _ask(
        self,
        messages: Sequence[Message],
        schema: JsonSchema | None,
        stop: threading.Event,
        sample: int = 0,
    ) -> ChatOutcome:
        if not messages or messages[-1].get("role") != "user":
            raise ConfigError(f"messages must end with the user's, got {list(messages)}")
        asked = [dict(message) for message in messages]
        if schema is not None:
            asked = _instructed(asked, schema)
        outcome, said = self._reply(asked, schema, stop, sample)
        if not (isinstance(outcome, ChatFailure) and outcome.kind == "malformed" and said):
            return outcome
        asked += [
            {"role": "assistant", "content": said},
            {"role": "user", "content": REPAIR.format(problem=outcome.detail)},
        ]
        repaired, _ = self._reply(asked, schema, stop, sample)
        return replace(
            repaired,
            input_tokens=outcome.input_tokens + repaired.input_tokens,
            output_tokens=outcome.output_tokens + repaired.output_tokens,
            cached=outcome.cached and repaired.cached,
        )

    def _reply(
        self,
        asked: list[dict[str, str]],
        schema: JsonSchema | None,
        stop: threading.Event,
        sample: int,
    ) -> tuple[ChatOutcome, str]:
        """Return the outcome of one request, and what the server said."""
        content = {
            "model": self.options.model,
            "messages": asked,
            "schema": dict(schema) if schema is not None else None,
            "sampling": self.options.sampling,
            "extra": dict(self.options.extra),
        }
        key = content_key({**content, "sample": sample} if sample else content)
        with self._alone(key):
            if self._cache is not None and (stored := self._cache.get(key)):
                self._count(stored, cached=True)
                return _judge(stored, schema, cached=True), stored.text
            found = self._request(asked, schema, stop, sample)
            if isinstance(found, ChatFailure):
                return found, ""
            self._count(found, cached=False)
            if self._cache is not None:
                found = self._cache.put(key, self.options.model, found)
            return _judge(found, schema, cached=False), found.text

    def _request(
        self,
        asked: list[dict[str, str]],
        schema: JsonSchema | None,
        stop: threading.Event,
        sample: int,
    ) -> StoredReply | ChatFailure:
        """Ask the server, with the schema if it takes one."""
        enforced = schema is not None and self._enforced
        seed = self.options.seed
        plain: dict[str, Any] = {"seed": seed + sample} if sample and seed is not None else {}
        fields = dict(plain)
        if enforced:
            inner = {"name": "reply", "schema": dict(schema or {}), "strict": True}
            fields["response_format"] = {"type": "json_schema", "json_schema": inner}
        found = self._requester.send(asked, fields, stop)
        if enforced and isinstance(found, ChatFailure):
            found = self._requester.send(asked, plain, stop)
            if isinstance(found, StoredReply):
                self._enforced = False
        with self._lock:
            if isinstance(found, StoredReply) or self._usage.replies + self._usage.cached:
                self._refused = 0
            else:
                self._refused += 1
            refused = self._refused
        if isinstance(found, ChatFailure) and refused >= TRUST:
            raise ToolError(
                f"{self.options.address} must answer model {self.options.model!r}, got: "
                f"{found.detail}, for each of the first {refused} requests; the options that it "
                f"may not know: {', '.join([*self.options.sampling, *self.options.extra])}"
            )
        return found

    def _count(self, reply: StoredReply, *, cached: bool) -> None:
        given, written = reply.input_tokens or 0, reply.output_tokens or 0
        with self._lock:
            used = self._usage
            if cached:
                self._usage = replace(
                    used,
                    cached=used.cached + 1,
                    saved_input_tokens=used.saved_input_tokens + given,
                    saved_output_tokens=used.saved_output_tokens + written,
                )
                return
            self._usage = replace(
                used,
                replies=used.replies + 1,
                uncounted=used.uncounted + (reply.input_tokens is None),
                input_tokens=used.input_tokens + given,
                output_tokens=used.output_tokens + written,
            )

    def _price(self, given: int, written: int) -> float:
        return (given * self.options.input_price + written * self.options.output_price) / 1e6

    def _alone(self, key: str) -> AbstractContextManager[None]:
        """Let a request that is under way finish before its like looks into the cache."""
        return _Turn(self._under_way, self._lock, key) if self._cache is not None else nullcontext()


class _Turn(AbstractContextManager[None]):
    """Holds one key of a table of locks; the table keeps only keys that somebody wants."""

    def __init__(
        self, table: dict[str, tuple[threading.Lock, int]], guard: threading.Lock, key: str
    ) -> None:
        self._table, self._guard, self._key = table, guard, key

    def __enter__(self) -> None:
        with self._guard:
            lock, users = self._table.get(self._key, (threading.Lock(), 0))
            self._table[self._key] = (lock, users + 1)
        lock.acquire()

    def __exit__(self, *_: object) -> None:
        with self._guard:
            lock, users = self._table[self._key]
            if users == 1:
                del self._table[self._key]
            else:
                self._table[self._key] = (lock, users - 1)
        lock.release()


def _instructed(messages: list[dict[str, str]], schema: JsonSchema) -> list[dict[str, str]]:
    """Say the schema in words, in the system's turn."""
    words = INSTRUCTION.format(schema=json.dumps(dict(schema), ensure_ascii=False))
    if messages[0].get("role") == "system":
        first = {"role": "system", "content": f"{messages[0]['content']}\n\n{words}"}
        return [first, *messages[1:]]
    return [{"role": "system", "content": words}, *messages]


def _judge(reply: StoredReply, schema: JsonSchema | None, *, cached: bool) -> ChatOutcome:
    """Tell a reply that can be used from one that cannot."""
    tokens = {
        "input_tokens": reply.input_tokens or 0,
        "output_tokens": reply.output_tokens or 0,
        "cached": cached,
    }
    text = reply.text.strip()
    if reply.refusal:
        return ChatFailure(kind="refused", detail=reply.refusal, **tokens)
    if reply.finish_reason == "content_filter":
        return ChatFailure(kind="refused", detail="the server's content filter", **tokens)
    if reply.finish_reason == "length":
        return ChatFailure(kind="truncated", detail="the reply reached max_tokens", **tokens)
    if not text:
        return ChatFailure(kind="empty", detail="the server sent no text", **tokens)
    if schema is None:
        return ChatReply(text=text, **tokens)
    try:
        value = find_json(text)
    except ValueError as error:
        return ChatFailure(kind="malformed", detail=str(error), **tokens)
    if problem := misfit(value, schema):
        return ChatFailure(kind="malformed", detail=problem, **tokens)
    return ChatReply(text=text, value=value, **tokens)
