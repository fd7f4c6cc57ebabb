"""What waits to be written to one client: bounded, and in order."""

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from llama_omni.errors import CapacityError

_SOUND = "response.output_audio.delta"


class Sender:
    """A queue of events with a writer, so that a slow client holds up nobody else.

    Args:
        write: writes one frame; waits while the client's socket is full.
        max_bytes: that may wait.
        timeout_s: for one frame.
    """

    def __init__(
        self, write: Callable[[str], Awaitable[None]], *, max_bytes: int, timeout_s: float
    ) -> None:
        self._write, self._max_bytes, self._timeout_s = write, max_bytes, timeout_s
        self._waiting: deque[tuple[str, str | None]] = deque()  # frame; response, if it is sound
        self._bytes = 0
        self._wake, self._idle = asyncio.Event(), asyncio.Event()
        self._idle.set()

    def put(self, event: dict[str, Any]) -> None:
        """Let an event be written; never waits.

        Raises:
            CapacityError: the client has not read what was sent before.
        """
        frame = json.dumps(event, separators=(",", ":"), allow_nan=False)
        if self._bytes + len(frame) > self._max_bytes and self._waiting:
            raise CapacityError(f"a client must read: {self._bytes} bytes wait for it")
        self._bytes += len(frame)
        sound_of = event["response_id"] if event["type"] == _SOUND else None
        self._waiting.append((frame, sound_of))
        self._idle.clear()
        self._wake.set()

    def drop_sound(self, response_id: str) -> None:
        """Forget a response's sound that has not been written."""
        kept = [entry for entry in self._waiting if entry[1] != response_id]
        self._waiting = deque(kept)
        self._bytes = sum(len(frame) for frame, _ in kept)

    async def run(self) -> None:
        """Write for ever.

        Raises:
            CapacityError: the client took too long for one frame.
        """
        while True:
            await self._wake.wait()
            while self._waiting:
                frame, _ = self._waiting.popleft()
                self._bytes -= len(frame)
                try:
                    async with asyncio.timeout(self._timeout_s):
                        await self._write(frame)
                except TimeoutError as error:
                    raise CapacityError(
                        f"a client must read: one event waited {self._timeout_s:g} s for it"
                    ) from error
            self._wake.clear()
            self._idle.set()

    async def flush(self) -> None:
        """Wait until all is written."""
        await self._idle.wait()
