"""Any plain assistant for an event loop: each reply runs in a thread, and nothing is batched.

A baseline need not know of generations, speculation or batching: a prepared reply is only
remembered, and its work begins when it is committed. What a plain conversation cannot do is not
done: its history keeps what was said, also where less was heard, unless it has a `replace` of its
own, as ours has.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any

from llama_omni.errors import EngineError, InputError, LlamaOmniError
from llama_omni.history import History
from llama_omni.interfaces import (
    Assistant,
    Audio,
    Conversation,
    ReplyDone,
    ReplyEvent,
    ReplyOptions,
    Turn,
)


class ThreadedAssistant:
    """An `AsyncAssistant` around any `Assistant`."""

    def __init__(self, assistant: Assistant) -> None:
        self._assistant = assistant

    @property
    def sample_rate(self) -> int:
        """Samples per second of its replies."""
        return self._assistant.sample_rate

    @property
    def ready(self) -> bool:
        """Whether it can answer now: always."""
        return True

    def conversation(self, system: str | None = None) -> "ThreadedConversation":
        """Begin a conversation."""
        return ThreadedConversation(self._assistant.conversation(system))


class ThreadedConversation:
    """An `AsyncConversation` around any `Conversation`."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._history = History(conversation.turns)
        self._asked: dict[int, tuple[Turn, ReplyOptions | None]] = {}
        self._stale = False  # the conversation's own history is not this one
        self._busy = threading.Lock()  # a cancelled reply's thread may not have ended yet
        self._closed = False

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The history so far, the system's turn first if there is one."""
        return self._history.turns

    def prepare(
        self,
        question: Audio | Turn | None,
        options: ReplyOptions | None = None,
        *,
        generation: int | None = None,
        history: Sequence[Turn] | None = None,
    ) -> int:
        """Remember a question; see `AsyncConversation.prepare`.

        Raises:
            InputError: also for what a plain conversation has no way to do: answer without a
                question, or after another history.
        """
        if self._closed:
            raise InputError("a conversation must be open to be asked, got a closed one")
        if question is None or history is not None:
            raise InputError(
                "a question must be given, and no other history: this assistant's conversations "
                "only go on"
            )
        asked = question if isinstance(question, Turn) else Turn(role="user", audio=question)
        chosen = self._history.prepare(asked, generation=generation)
        self._asked = {chosen: (asked, options)}
        return chosen

    async def _events(
        self, generation: int, question: Turn, options: ReplyOptions | None
    ) -> AsyncIterator[ReplyEvent]:
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Any]()

        def work() -> None:
            try:
                with self._busy:
                    for event in self._conversation.stream(question, options):
                        loop.call_soon_threadsafe(events.put_nowait, event)
            except Exception as error:
                loop.call_soon_threadsafe(events.put_nowait, error)

        thread = threading.Thread(target=work, name="reply", daemon=True)
        self._synchronise()
        thread.start()
        ended = False
        try:
            while not ended:
                event = await events.get()
                ended = isinstance(event, ReplyDone | Exception)
                if isinstance(event, Exception):
                    self._history.fail(generation)
                    raise _shown(event) from event
                self._history.note(generation, event)
                yield event
        finally:
            if not ended:
                self.cancel(generation)

    def commit(self, generation: int | None = None) -> AsyncIterator[ReplyEvent]:
        """Begin the work, and give its events; see `AsyncConversation.commit`."""
        chosen = self._history.generation if generation is None else generation
        if chosen not in self._asked or not self._history.commit(chosen):
            raise InputError(f"a reply must be prepared to be committed, got generation {chosen}")
        return self._events(chosen, *self._asked.pop(chosen))

    def abandon(self, generation: int | None = None) -> None:
        """Forget a question that was not committed."""
        chosen = self._history.generation if generation is None else generation
        self._history.abandon(chosen)
        self._asked.pop(chosen, None)

    def cancel(self, generation: int | None = None) -> None:
        """Stop a reply at its next step."""
        chosen = self._history.generation if generation is None else generation
        if self._history.running == chosen:
            self._history.cancel(chosen)
            self._conversation.cancel()
        else:
            self.abandon(chosen)

    def truncate(self, samples: int, generation: int | None = None) -> Turn | None:
        """Keep of an answer only what was heard, where the conversation can."""
        chosen = self._history.last_answer if generation is None else generation
        if self._history.running == chosen:
            self.cancel(chosen)
        self._stale = True
        return self._history.truncate(samples, chosen)

    def add(self, turn: Turn) -> None:
        """Put a turn at the end of the history, where the conversation can."""
        self._history.add(turn)
        self._stale = True

    def replace(self, turns: Sequence[Turn]) -> None:
        """Take these turns for the history, where the conversation can."""
        self._history.replace(turns)
        self._stale = True

    def close(self) -> None:
        """Give back what the conversation holds; a running reply is cancelled."""
        self._closed = True
        self._conversation.close()

    def _synchronise(self) -> None:
        """Give the conversation this history, without the question that it is asked now."""
        replace = getattr(self._conversation, "replace", None)
        if self._stale and callable(replace):
            replace(self.turns[:-1])
            self._stale = False


def _shown(error: Exception) -> LlamaOmniError:
    return error if isinstance(error, LlamaOmniError) else EngineError(f"the reply failed: {error}")
