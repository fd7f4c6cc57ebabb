"""One session's replies: from the session's actions to conversations of the engine, and back.

The session's items are the truth about what was said; the engine's conversation is told of it
before each reply, where it holds anything else. Replies out of band have conversations of their
own.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing, nullcontext
from typing import Any

import numpy as np

from llama_omni.errors import LlamaOmniError
from llama_omni.interfaces import (
    AsyncAssistant,
    AsyncConversation,
    ReplyEvent,
    ReplyFailed,
    Turn,
)
from llama_omni.remote.messages import failure_of
from llama_omni.serve.actions import Prepare, ReplyRequest, StartReply, TruncateReply

logger = logging.getLogger(__name__)

Tell = Callable[[int, ReplyEvent | ReplyFailed], Awaitable[None]]


class Replies:
    """Makes, stops and forgets replies.

    Args:
        engine: makes them.
        tell: is handed each event of a reply that was started.
        may_speculate: whether the engine has time for replies that may be dropped.
    """

    def __init__(
        self, engine: AsyncAssistant, tell: Tell, may_speculate: Callable[[], bool]
    ) -> None:
        self._engine, self._tell, self._may_speculate = engine, tell, may_speculate
        self._conversation = engine.conversation()
        self._prepared: int | None = None
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._beside: dict[int, AsyncConversation] = {}  # out of band
        self._cancelled: set[int] = set()  # whose tasks have not ended

    def prepare(self, action: Prepare) -> bool:
        """Begin a reply that nobody sees; False where it was left out."""
        if self._tasks.keys() - self._beside.keys() or not self._may_speculate():
            return False
        try:
            self._ask(self._conversation, action.generation, action.request)
        except LlamaOmniError as error:
            logger.debug("not prepared: %s", error)
            return False
        self._prepared = action.generation
        return True

    def start(self, action: StartReply) -> bool:
        """Make a reply, or show the prepared one; True where it was prepared."""
        generation, ready = action.generation, self._prepared == action.generation
        self._prepared = None if ready else self._prepared
        earlier = [self._tasks[one] for one in self._tasks if one not in self._beside]
        conversation = self._conversation
        if action.request.out_of_band:
            conversation = self._beside[generation] = self._engine.conversation()
        work = self._run(
            conversation,
            generation,
            None if ready else action.request,
            [] if action.request.out_of_band else earlier,
        )
        task = asyncio.create_task(work, name=f"reply-{generation}")
        self._tasks[generation] = task
        task.add_done_callback(lambda _: self._forget(generation))
        return ready

    def abandon(self, generation: int) -> bool:
        """Drop a prepared reply; False where it had been left out."""
        if self._prepared != generation:
            return False
        self._prepared = None
        self._conversation.abandon(generation)
        return True

    def cancel(self, generation: int) -> None:
        """Stop a reply; its last event still comes."""
        if generation in self._tasks:
            self._cancelled.add(generation)
            self._beside.get(generation, self._conversation).cancel(generation)

    def truncate(self, action: TruncateReply) -> None:
        """Keep of a reply only what was heard."""
        self._conversation.truncate(action.samples, action.generation)

    async def close(self) -> None:
        """Stop everything and give it back."""
        tasks = [*self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._conversation.close()

    def _ask(self, conversation: AsyncConversation, generation: int, request: ReplyRequest) -> None:
        asks = request.turns[-1].role == "user"
        history = request.turns[:-1] if asks else request.turns
        if not _same(conversation.turns, history):
            conversation.replace(history)
        question = request.turns[-1] if asks else None
        conversation.prepare(question, request.options, generation=generation)

    async def _run(
        self,
        conversation: AsyncConversation,
        generation: int,
        request: ReplyRequest | None,
        earlier: Sequence[asyncio.Task[None]],
    ) -> None:
        """Hand on a reply's events to its end, however it ends."""
        try:
            if earlier:  # cancelled ones, whose last words belong to the history
                await asyncio.wait(earlier)
            if generation in self._cancelled:
                return
            if request is not None:
                self._ask(conversation, generation, request)
            events = conversation.commit(generation)
            async with _closing(events):
                async for event in events:
                    await self._tell(generation, event)
        except LlamaOmniError as error:
            await self._tell(generation, failure_of(error))
        except Exception as error:
            logger.exception("reply failed generation=%d", generation)
            await self._tell(generation, failure_of(error))

    def _forget(self, generation: int) -> None:
        self._tasks.pop(generation, None)
        self._cancelled.discard(generation)
        beside = self._beside.pop(generation, None)
        if beside is not None:
            beside.close()


def _closing(events: Any) -> Any:
    """Leave no reply running whose reader is gone."""
    return aclosing(events) if hasattr(events, "aclose") else nullcontext(events)


def _same(left: Sequence[Turn], right: Sequence[Turn]) -> bool:
    return len(left) == len(right) and all(map(_same_turn, left, right))


def _same_turn(left: Turn, right: Turn) -> bool:
    if (left.role, left.text, left.token_ids) != (right.role, right.text, right.token_ids):
        return False
    if left.audio is right.audio:
        return True
    return (
        left.audio is not None
        and right.audio is not None
        and np.array_equal(left.audio, right.audio)
    )
