"""One client's WebSocket: its frames to the session, the session's events back, to the end."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from llama_omni.errors import CapacityError
from llama_omni.serve.dialogue import Around, Dialogue
from llama_omni.serve.sending import Sender
from llama_omni.serve.session import Session

logger = logging.getLogger(__name__)

_POLICY, _INTERNAL = 1008, 1011  # WebSocket close codes
_TICK_S = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Surroundings(Around):
    """What all connections of a server share."""

    max_unsent_bytes: int
    send_timeout_s: float


class Connection:
    """A client and its session, from the first event to the last; the dialogue's `Peer`.

    Args:
        websocket: accepted.
        session: not begun yet.
        around: what it works with.
    """

    def __init__(self, websocket: WebSocket, session: Session, around: Surroundings) -> None:
        self._websocket, self._session, self._around = websocket, session, around
        self._sender = Sender(
            websocket.send_text,
            max_bytes=around.max_unsent_bytes,
            timeout_s=around.send_timeout_s,
        )
        self._dialogue = Dialogue(session, around, self)
        self._end: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()
        self._client_code: int | None = None  # that the client closed with

    async def run(self) -> int:
        """Serve until one side ends it; return the WebSocket code it ended with."""
        tasks = [
            asyncio.create_task(work, name=f"{self._session.id}-{name}")
            for name, work in (
                ("writer", self._sender.run()),
                ("reader", self._read()),
                ("clock", self._tick()),
            )
        ]
        code, reason = _INTERNAL, "the server failed"
        try:
            await asyncio.wait([self._end, *tasks], return_when=asyncio.FIRST_COMPLETED)
            code, reason = self._ended(tasks)
        finally:
            await self._clean_up(tasks)
        if self._client_code is None and code != _GONE:
            with suppress(RuntimeError, WebSocketDisconnect, TimeoutError):
                async with asyncio.timeout(self._around.send_timeout_s):
                    await self._websocket.close(code, reason)
        return code

    async def drain(self) -> None:
        """Begin no more responses; close once those that are being made have ended."""
        await self._dialogue.drain()

    # What the session says

    def take(self, event: dict[str, Any]) -> None:
        """Let an event be written; a client that does not read is closed."""
        try:
            self._sender.put(event)
        except CapacityError as error:
            self.end(_POLICY, str(error))

    def drop_sound(self, response_id: str) -> None:
        """Forget a response's sound that has not been written."""
        self._sender.drop_sound(response_id)

    def end(self, code: int, reason: str) -> None:
        """Write what waits, then close the WebSocket."""
        if not self._end.done():
            self._end.set_result((code, reason))

    # What the client says

    async def _read(self) -> None:
        await self._dialogue.begin()
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                self._client_code = int(message.get("code") or _GONE)
                return
            frame = message.get("text")
            await self._dialogue.client(message.get("bytes") or b"" if frame is None else frame)
            await asyncio.sleep(0)  # a flood of small events leaves room for others

    async def _tick(self) -> None:
        while True:
            await self._dialogue.tick()
            await asyncio.sleep(_TICK_S)

    # The end

    def _ended(self, tasks: Sequence[asyncio.Task[None]]) -> tuple[int, str]:
        """Tell why it ended: as the session wished, by the client, or by a failure."""
        if self._end.done():
            return self._end.result()
        for task in tasks:
            error = task.exception() if task.done() else None
            if isinstance(error, CapacityError):
                return _POLICY, str(error)
            if error is not None and not _is_gone(error):
                logger.error("session failed session=%s", self._session.id, exc_info=error)
                return _INTERNAL, "the server failed"
        return self._client_code or _GONE, "the client is gone"

    async def _clean_up(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        """Write what waits where there is somebody to read it; give everything back."""
        writer, *others = tasks
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        if self._end.done() and self._end.result()[0] != _POLICY and not writer.done():
            flush = asyncio.create_task(self._sender.flush())
            await asyncio.wait(
                [flush, writer],
                timeout=self._around.send_timeout_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            flush.cancel()
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)
        await self._dialogue.close()


_GONE = 1006  # never sent: what a client's end is counted as


def _is_gone(error: BaseException) -> bool:
    """Tell whether it only says that the socket is closed."""
    return isinstance(error, WebSocketDisconnect | RuntimeError | OSError)
