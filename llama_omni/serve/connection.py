"""One client's WebSocket: frames to its session, the session's actions to the world, in order.

Everything that touches the session holds one lock, so the order of what happens is one order. What
takes long (a detector, a huge event, a recogniser) runs in a thread meanwhile; the event loop and
other sessions go on.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from llama_omni.errors import CapacityError
from llama_omni.interfaces import AsyncAssistant, Recognizer, ReplyEvent, ReplyFailed
from llama_omni.serve.actions import (
    Abandon,
    Action,
    CancelReply,
    ClearAudio,
    Close,
    CommitAudio,
    DropAudio,
    Finished,
    Listen,
    Prepare,
    Send,
    StartReply,
    Transcribe,
    TruncateReply,
    Tune,
)
from llama_omni.serve.hearing import Ears
from llama_omni.serve.metrics import ReplyWatch, ServeMetrics
from llama_omni.serve.replying import Replies
from llama_omni.serve.sending import Sender
from llama_omni.serve.session import Session
from llama_omni.serve.turn_events import SpeechStopped

logger = logging.getLogger(__name__)

_POLICY, _INTERNAL = 1008, 1011  # WebSocket close codes
_TICK_S = 1.0
_LARGE = 256 * 1024  # letters of an event that is read in a thread


@dataclass(frozen=True, kw_only=True, slots=True)
class Surroundings:
    """What all connections of a server share."""

    engine: AsyncAssistant
    metrics: ServeMetrics
    recognizer: Recognizer | None
    make_ears: Callable[[], Ears]
    may_speculate: Callable[[], bool]
    max_unsent_bytes: int
    send_timeout_s: float
    writers: Executor | None = None  # where the recogniser works; None: the loop's own threads


class Connection:
    """A client and its session, from the first event to the last.

    Args:
        websocket: accepted.
        session: not begun yet.
        around: what it works with.
    """

    def __init__(self, websocket: WebSocket, session: Session, around: Surroundings) -> None:
        self._websocket, self._session, self._around = websocket, session, around
        self._metrics = around.metrics
        self._lock = asyncio.Lock()
        self._sender = Sender(
            websocket.send_text,
            max_bytes=around.max_unsent_bytes,
            timeout_s=around.send_timeout_s,
        )
        self._ears = around.make_ears()
        self._replies = Replies(around.engine, self._reply, around.may_speculate)
        self._watches: dict[int, ReplyWatch] = {}
        self._end: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()
        self._writings: set[asyncio.Task[None]] = set()  # transcripts on their way
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
        async with self._lock:
            await self._do(self._session.drain())

    # What comes in

    async def _read(self) -> None:
        async with self._lock:
            await self._do(self._session.begin())
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                self._client_code = int(message.get("code") or _GONE)
                return
            frame = message.get("text")
            if frame is None:
                frame = message.get("bytes") or b""
            async with self._lock:
                if len(frame) > _LARGE:
                    actions = await asyncio.to_thread(self._session.client, frame)
                else:
                    actions = self._session.client(frame)
                await self._do(actions)
            await asyncio.sleep(0)  # a flood of small events leaves room for others

    async def _reply(self, generation: int, event: ReplyEvent | ReplyFailed) -> None:
        async with self._lock:
            if generation in self._watches:
                self._watches[generation].note(event)
            await self._do(self._session.reply(generation, event))

    async def _tick(self) -> None:
        while True:
            async with self._lock:
                await self._do(self._session.tick(1000 * self._metrics.clock()))
            await asyncio.sleep(_TICK_S)

    async def _transcribe(self, action: Transcribe) -> None:
        assert self._around.recognizer is not None
        write, loop = self._around.recognizer.transcribe, asyncio.get_running_loop()
        try:
            text = await loop.run_in_executor(self._around.writers, write, action.audio)
        except Exception:
            logger.exception("transcription failed session=%s", self._session.id)
            failed = "the recogniser failed"
            async with self._lock:
                await self._do(self._session.transcript_failed(action.item_id, failed))
            return
        async with self._lock:
            await self._do(self._session.transcript(action.item_id, text))

    # What is to be done

    async def _do(self, actions: Sequence[Action]) -> None:
        """Do what the session asks, in order; the lock is held."""
        for action in actions:
            match action:
                case Send():
                    self._send(action.event)
                case Listen() | Tune() | CommitAudio() | ClearAudio():
                    for event in await self._ears.take(action):
                        if isinstance(event, SpeechStopped):
                            waited_ms = event.at_ms - event.speech_end_ms
                            self._metrics.endpoint.observe(waited_ms / 1000)
                        await self._do(self._session.turn(event))
                case Prepare():
                    begun = self._replies.prepare(action)
                    self._metrics.speculation.labels("begun" if begun else "left_out").inc()
                case Abandon():
                    if self._replies.abandon(action.generation):
                        self._metrics.speculation.labels("dropped").inc()
                case StartReply():
                    self._start(action)
                case CancelReply():
                    self._replies.cancel(action.generation)
                case TruncateReply():
                    self._replies.truncate(action)
                case Finished():
                    self._metrics.responses.labels(action.status).inc()
                    self._watches.pop(action.generation, None)
                    if not action.out_of_band:
                        self._ears.reply_ended(action.audio_ms)
                case DropAudio():
                    self._sender.drop_sound(action.response_id)
                case Transcribe():
                    task = asyncio.create_task(self._transcribe(action))
                    self._writings.add(task)
                    task.add_done_callback(self._writings.discard)
                case Close():
                    self._finish(action.code, action.reason)

    def _start(self, action: StartReply) -> None:
        if not action.request.out_of_band:
            self._ears.reply_begins()
        prepared = self._replies.start(action)
        if prepared:
            self._metrics.speculation.labels("used").inc()
        self._watches[action.generation] = ReplyWatch(self._metrics, prepared=prepared)

    def _send(self, event: dict[str, Any]) -> None:
        if event["type"] == "error":
            self._metrics.errors.labels(event["error"]["code"]).inc()
        try:
            self._sender.put(event)
        except CapacityError as error:
            self._finish(_POLICY, str(error))

    # The end

    def _finish(self, code: int, reason: str) -> None:
        if not self._end.done():
            self._end.set_result((code, reason))

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
        for task in (*others, *self._writings):
            task.cancel()
        await asyncio.gather(*others, *self._writings, return_exceptions=True)
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
        for action in self._session.disconnected():
            match action:
                case CancelReply():
                    self._replies.cancel(action.generation)
                case Abandon():
                    self._replies.abandon(action.generation)
                case _:
                    pass
        await self._replies.close()


_GONE = 1006  # never sent: what a client's end is counted as


def _is_gone(error: BaseException) -> bool:
    """Tell whether it only says that the socket is closed."""
    return isinstance(error, WebSocketDisconnect | RuntimeError | OSError)
