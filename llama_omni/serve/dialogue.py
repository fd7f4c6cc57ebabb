"""One session at work: what comes in reaches it in one order, and what it asks for is done.

Everything that touches the session holds one lock, so the order of what happens is one order. What
takes long (a detector, a huge event, a recogniser) runs in a thread meanwhile; the event loop and
other sessions go on. Who the session talks with (a WebSocket, a terminal) is a `Peer`.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

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
from llama_omni.serve.session import Session
from llama_omni.serve.turn_events import SpeechStopped

logger = logging.getLogger(__name__)

_LARGE = 256 * 1024  # letters of an event that is read in a thread


@runtime_checkable
class Peer(Protocol):
    """Who a session talks with. Called in order, under the dialogue's lock; must not wait."""

    def take(self, event: dict[str, Any]) -> None:
        """Take a server event."""
        ...

    def drop_sound(self, response_id: str) -> None:
        """Forget a response's sound that was taken and has not gone on yet."""
        ...

    def end(self, code: int, reason: str) -> None:
        """Take that the session is over, with a code of the WebSocket protocol."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Around:
    """What a dialogue works with; many may share it."""

    engine: AsyncAssistant
    metrics: ServeMetrics
    recognizer: Recognizer | None
    make_ears: Callable[[], Ears]
    may_speculate: Callable[[], bool]
    writers: Executor | None = None  # where the recogniser works; None: the loop's own threads


class Dialogue:
    """A session with its ears and its replies.

    Args:
        session: not begun yet.
        around: what it works with.
        peer: who it talks with.
    """

    def __init__(self, session: Session, around: Around, peer: Peer) -> None:
        self._session, self._around, self._peer = session, around, peer
        self._metrics = around.metrics
        self._lock = asyncio.Lock()
        self._ears = around.make_ears()
        self._replies = Replies(around.engine, self._reply, around.may_speculate)
        self._watches: dict[int, ReplyWatch] = {}
        self._writings: set[asyncio.Task[None]] = set()  # transcripts on their way

    # What comes in

    async def begin(self) -> None:
        """Greet the peer."""
        async with self._lock:
            await self._do(self._session.begin())

    async def client(self, frame: str | bytes | dict[str, Any]) -> None:
        """Take what the peer says, the text of a frame or an event; never raises for its faults."""
        async with self._lock:
            if len(frame) > _LARGE:
                actions = await asyncio.to_thread(self._session.client, frame)
            else:
                actions = self._session.client(frame)
            await self._do(actions)

    async def tick(self) -> None:
        """Let the session know the time."""
        async with self._lock:
            await self._do(self._session.tick(1000 * self._metrics.clock()))

    async def drain(self) -> None:
        """Begin no more responses; end once those that are being made have ended."""
        async with self._lock:
            await self._do(self._session.drain())

    async def close(self) -> None:
        """Take that the peer is gone: stop all work for it and give everything back."""
        for task in self._writings:
            task.cancel()
        await asyncio.gather(*self._writings, return_exceptions=True)
        for action in self._session.disconnected():
            match action:
                case CancelReply():
                    self._replies.cancel(action.generation)
                case Abandon():
                    self._replies.abandon(action.generation)
                case _:
                    pass
        await self._replies.close()
        # They hold this dialogue: without them a session is freed now, sound and all, and not
        # when the garbage collector next comes by, which may be minutes later.
        del self._peer, self._replies

    async def _reply(self, generation: int, event: ReplyEvent | ReplyFailed) -> None:
        async with self._lock:
            if generation in self._watches:
                self._watches[generation].note(event)
            await self._do(self._session.reply(generation, event))

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
                    self._peer.drop_sound(action.response_id)
                case Transcribe():
                    task = asyncio.create_task(self._transcribe(action))
                    self._writings.add(task)
                    task.add_done_callback(self._writings.discard)
                case Close():
                    self._peer.end(action.code, action.reason)

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
        self._peer.take(event)
