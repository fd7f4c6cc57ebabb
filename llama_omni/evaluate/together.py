"""Ask an engine for many conversations from threads, as evaluation does, several at a time."""

import asyncio
import threading
from types import TracebackType
from typing import Any

from llama_omni.errors import EngineError
from llama_omni.interfaces import AsyncAssistant, Reply, ReplyDone, ReplyOptions, Turn


class Together:
    """An `AsyncAssistant` whose replies are waited for by threads.

    Args:
        engine: started when this is entered and closed when it is left, where it can be.
    """

    def __init__(self, engine: AsyncAssistant) -> None:
        self._engine = engine
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="engine", daemon=True)

    def __enter__(self) -> "Together":
        self._thread.start()
        self._call("start")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._call("close")
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def ask(self, question: Turn, options: ReplyOptions) -> Reply:
        """Return the whole reply to a question without history.

        Raises:
            LlamaOmniError: what the engine says.
        """
        return asyncio.run_coroutine_threadsafe(self._ask(question, options), self._loop).result()

    async def _ask(self, question: Turn, options: ReplyOptions) -> Reply:
        conversation = self._engine.conversation()
        try:
            async for event in conversation.commit(conversation.prepare(question, options)):
                if isinstance(event, ReplyDone):
                    return event.reply
        finally:
            conversation.close()
        raise EngineError("the reply ended without its last event")

    def _call(self, name: str) -> None:
        """Await a method of the engine that not every one has."""
        method: Any = getattr(self._engine, name, None)
        if method is not None:
            asyncio.run_coroutine_threadsafe(method(), self._loop).result()
