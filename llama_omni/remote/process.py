"""The pipe to an engine's process, for an event loop: two threads, so that the loop never waits."""

import asyncio
import logging
import multiprocessing
import queue
import threading
from collections.abc import Callable
from typing import Any

from llama_omni.remote.factory import Factory
from llama_omni.remote.messages import Stop

logger = logging.getLogger(__name__)

RUN = Factory("llama_omni.engine.worker:run")
_LOST = (EOFError, OSError, ValueError)  # a pipe that ends, breaks, or was closed here


class EngineProcess:
    """One run of the engine's process. Made, and told of messages, on an event loop.

    Args:
        factory: makes the engine, over there.
        receive: called on the loop with each message that arrives.
        lost: called on the loop once, when the process or its pipe has ended.
    """

    def __init__(
        self, factory: Callable[[], Any], receive: Callable[[Any], None], lost: Callable[[], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._receive, self._lost = receive, lost
        self._outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(
            target=RUN, args=(other, factory), name="llama-omni-engine", daemon=True
        )
        self._process.start()
        other.close()  # so that its end is noticed here
        self._threads = [
            threading.Thread(target=work, name=f"engine-{name}", daemon=True)
            for name, work in (("reader", self._read), ("writer", self._write))
        ]
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int | None:
        """Number of the process."""
        return self._process.pid

    def send(self, message: Any) -> None:
        """Send a message; never waits."""
        self._outbox.put(message)

    def kill(self) -> None:
        """End the process by force, without waiting; `lost` is called once it has ended."""
        self._process.kill()

    async def stop(self, timeout_s: float) -> None:
        """End the process: by asking, and where that does not help in time, by force."""
        self.send(Stop())
        await asyncio.to_thread(self._process.join, timeout_s)
        if self._process.is_alive():
            logger.warning("engine killed: it did not end in %.0f s", timeout_s)
            self._process.kill()
            await asyncio.to_thread(self._process.join)
        self.release()

    def release(self) -> None:
        """Close the pipe and let the threads of a process that has ended go."""
        self._outbox.put(None)
        self._pipe.close()
        self._process.join(0)

    def _read(self) -> None:
        try:
            while True:
                self._tell(self._receive, self._pipe.recv())
        except _LOST:
            pass
        except Exception:
            logger.exception("the engine sent what cannot be read")
        self._tell(self._lost)

    def _write(self) -> None:
        while (message := self._outbox.get()) is not None:
            try:
                self._pipe.send(message)
            except _LOST:
                return  # the reader sees the end too, and tells

    def _tell(self, function: Callable[..., None], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            logger.debug("the event loop has ended before the engine")
