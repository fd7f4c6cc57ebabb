"""Conversations of an event loop with an engine in another process.

No call waits: each becomes a message, in order. The history is kept on this side too, by the same
code and from the same events, so a conversation outlives an engine that has ended: its running
reply fails, and the next one is asked of the new engine with the whole history.
"""

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from llama_omni.errors import ConfigError, EngineError, InputError, LlamaOmniError
from llama_omni.history import History
from llama_omni.interfaces import Audio, ReplyDone, ReplyEvent, ReplyFailed, ReplyOptions, Turn
from llama_omni.remote.messages import Call, EngineNumbers, Happened, Ready, Report, error_of
from llama_omni.remote.process import EngineProcess

logger = logging.getLogger(__name__)

GONE = "the engine has ended and is not back yet; ask again later"
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0  # before a restart; doubles while it keeps failing
LOAD_S = 600.0  # that an engine may take to be made
_WATCH_S = 0.25


class RemoteEngine:
    """An `AsyncAssistant` whose work is done in a process of its own.

    Args:
        factory: picklable; makes the engine over there (`remote.factory.Factory`).
        restart: start the process again when it ends unasked.
        stop_s: seconds that it may take to end.
        hang_s: seconds without a sign of life after which it is killed; longer than any one step.
    """

    def __init__(
        self,
        factory: Callable[[], Any],
        *,
        restart: bool = True,
        stop_s: float = 10.0,
        hang_s: float = 60.0,
    ) -> None:
        if not hang_s > 0:
            raise ConfigError(f"engine.hang_s must be above 0, got {hang_s}")
        self.numbers = EngineNumbers()
        self.restarts = 0
        self.hang_s = hang_s
        self._factory, self._restart, self._stop_s = factory, restart, stop_s
        self._process: EngineProcess | None = None
        self._sample_rate: int | None = None
        self._settled = asyncio.Event()  # it is ready, or never will be
        self._refusal: LlamaOmniError | None = None  # why it never will be
        self._conversations: dict[int, RemoteConversation] = {}
        self._keys = itertools.count(1)
        self._closing = False
        self._task: asyncio.Task[None] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._silent_s = 0.0  # since its last sign of life
        self._pause_s = FIRST_PAUSE_S

    @property
    def ready(self) -> bool:
        """Whether the engine is loaded and alive."""
        return self._settled.is_set() and self._refusal is None

    @property
    def sample_rate(self) -> int:
        """Samples per second of replies; known once the engine was ready."""
        if self._sample_rate is None:
            raise EngineError("the engine must be started first, got none that was ever ready")
        return self._sample_rate

    @property
    def pid(self) -> int | None:
        """Number of the engine's process; None while there is none."""
        return self._process.pid if self._process is not None else None

    async def start(self, timeout_s: float = LOAD_S) -> None:
        """Start the process and wait until the engine is ready.

        Raises:
            LlamaOmniError: it cannot be made; the factory's own error where it gave one.
            EngineError: it ended, or took longer.
        """
        self._launch()
        self._watcher = asyncio.create_task(self._watch())
        await self.wait_ready(timeout_s)

    async def wait_ready(self, timeout_s: float = LOAD_S) -> None:
        """Wait until the engine is ready; raises as `start` does."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._settled.wait()
        except TimeoutError as error:
            raise EngineError(
                f"the engine must be ready within {timeout_s} s, got no answer"
            ) from error
        if self._refusal is not None:
            raise self._refusal

    def conversation(self, system: str | None = None) -> "RemoteConversation":
        """Begin a conversation; also while the engine is away."""
        made = RemoteConversation(self, next(self._keys), system)
        self._conversations[made.key] = made
        return made

    async def close(self) -> None:
        """End all conversations and the process."""
        self._closing = True
        for task in (self._task, self._watcher):
            if task is not None:
                task.cancel()
        for conversation in list(self._conversations.values()):
            conversation.close()
        if self._process is not None:
            await self._process.stop(self._stop_s)
        self._settled.clear()

    # What conversations use

    def _send(self, call: Call) -> None:
        if self._process is not None:
            self._process.send(call)

    def _forget(self, key: int) -> None:
        self._conversations.pop(key, None)

    # What the process says

    def _launch(self) -> None:
        epoch, self._silent_s = self.restarts, 0.0
        self._process = EngineProcess(
            self._factory,
            lambda message: self._receive(message, epoch),
            lambda: self._lost(epoch),
        )

    def _receive(self, message: Any, epoch: int) -> None:
        if epoch != self.restarts or self._closing:
            return
        self._silent_s = 0.0
        if isinstance(message, Report):
            self.numbers = message.numbers
            for happened in message.happened:
                conversation = self._conversations.get(happened.conversation)
                if conversation is not None:
                    conversation._happened(happened)
        elif isinstance(message, Ready):
            self._sample_rate, self._pause_s = message.sample_rate, FIRST_PAUSE_S
            self._settled.set()
            logger.info("engine ready pid=%s restarts=%d", self.pid, self.restarts)
        elif isinstance(message, LlamaOmniError):
            self._refusal = message
            self._settled.set()

    def _lost(self, epoch: int) -> None:
        """Fail what is running; start again if that is wanted."""
        if epoch != self.restarts or self._process is None:
            return
        self._process.release()
        self._process = None
        self.numbers = EngineNumbers()
        self.restarts += 1
        if self._closing or self._refusal is not None:
            return
        if self._sample_rate is None:
            self._refusal = EngineError("the engine's process ended while it was being loaded")
            self._settled.set()
            return
        self._settled.clear()
        logger.error("engine lost restarts=%d", self.restarts)
        for conversation in list(self._conversations.values()):
            conversation._engine_lost()
        if self._restart:
            self._task = asyncio.get_running_loop().create_task(self._start_again())

    async def _watch(self) -> None:
        """Kill a process that gives no sign of life; `_lost` then does the rest.

        Silence is counted in ticks, not read off a clock: after this process itself was stopped,
        what the engine has sent meanwhile is read before it is judged.
        """
        while True:
            await asyncio.sleep(_WATCH_S)
            self._silent_s += _WATCH_S
            longest = self.hang_s if self.ready else LOAD_S
            if self._process is not None and self._silent_s > longest:
                logger.error("engine killed: no sign of life for %.0f s", self._silent_s)
                self._settled.clear()
                self._silent_s = 0.0
                self._process.kill()

    async def _start_again(self) -> None:
        pause_s, self._pause_s = self._pause_s, min(2 * self._pause_s, LONGEST_PAUSE_S)
        await asyncio.sleep(pause_s)
        if not self._closing:
            self._launch()


class RemoteConversation:
    """An `AsyncConversation` with a `RemoteEngine`."""

    def __init__(self, engine: RemoteEngine, key: int, system: str | None) -> None:
        self.key = key
        self._engine, self._system = engine, system
        self._epoch: int | None = None  # of the engine that knows this conversation
        self._history = History([] if system is None else [Turn(role="system", text=system)])
        self._queues: dict[int, asyncio.Queue[ReplyEvent | ReplyFailed]] = {}
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
        """Begin a reply that nobody sees yet; see `AsyncConversation.prepare`."""
        if self._closed:
            raise InputError("a conversation must be open to be asked, got a closed one")
        asked = question if isinstance(question, Turn | None) else Turn(role="user", audio=question)
        generation = self._history.prepare(asked, generation=generation, in_history=history is None)
        self._drop_unseen()
        self._queues[generation] = asyncio.Queue()
        if not self._engine.ready:
            self._fail(generation, ReplyFailed(kind="engine", message=GONE))
            return generation
        self._make_known()
        named = (("generation", generation), ("history", history))
        self._call("prepare", asked, options, named=named)
        return generation

    def commit(self, generation: int | None = None) -> AsyncIterator[ReplyEvent]:
        """Give a prepared reply's events; see `AsyncConversation.commit`."""
        chosen = self._history.generation if generation is None else generation
        queue = self._queues.get(chosen)
        # One that has failed already is not in the history, and says so to who asks for it.
        if queue is None or (self._history.knows(chosen) and not self._history.commit(chosen)):
            raise InputError(f"a reply must be prepared to be committed, got generation {chosen}")
        self._call("commit", chosen)
        return self._events(chosen, queue)

    def abandon(self, generation: int | None = None) -> None:
        """Drop a reply that was not committed; see `AsyncConversation.abandon`."""
        chosen = self._history.generation if generation is None else generation
        self._history.abandon(chosen)
        self._drop_unseen()
        self._call("abandon", chosen)

    def cancel(self, generation: int | None = None) -> None:
        """Stop a reply now; see `AsyncConversation.cancel`."""
        chosen = self._history.generation if generation is None else generation
        if self._history.running != chosen:
            self.abandon(chosen)
            return
        self._history.cancel(chosen)
        self._call("cancel", chosen)

    def truncate(self, samples: int, generation: int | None = None) -> Turn | None:
        """Keep of an answer only what was heard; see `AsyncConversation.truncate`."""
        chosen = self._history.last_answer if generation is None else generation
        if self._history.running == chosen:
            self._history.cancel(chosen)
        self._call("truncate", samples, chosen)
        return self._history.truncate(samples, chosen)

    def add(self, turn: Turn) -> None:
        """Put a turn at the end of the history."""
        self._history.add(turn)
        self._call("add", turn)

    def replace(self, turns: Sequence[Turn]) -> None:
        """Take these turns for the history."""
        self._history.replace(turns)
        self._call("replace", tuple(turns))

    def close(self) -> None:
        """Give back all that the conversation holds; a running reply fails."""
        if self._closed:
            return
        self._closed = True
        self._call("close")
        self._engine._forget(self.key)
        closed = ReplyFailed(kind="input", message="the conversation was closed")
        for generation in list(self._queues):
            self._fail(generation, closed)

    async def _events(
        self, generation: int, events: asyncio.Queue[ReplyEvent | ReplyFailed]
    ) -> AsyncIterator[ReplyEvent]:
        """Give events as they come. Leaving the loop early cancels the reply."""
        ended = False
        try:
            while not ended:
                event = await events.get()
                ended = isinstance(event, ReplyDone | ReplyFailed)
                if isinstance(event, ReplyFailed):
                    raise error_of(event)
                yield event
        finally:
            self._queues.pop(generation, None)
            if not ended:
                self.cancel(generation)

    def _happened(self, happened: Happened) -> None:
        generation, event = happened.generation, happened.event
        if isinstance(event, ReplyFailed):
            self._fail(generation, event)
            return
        self._history.note(generation, event)
        if generation in self._queues:
            self._queues[generation].put_nowait(event)

    def _fail(self, generation: int, failed: ReplyFailed) -> None:
        queue = self._queues.get(generation)
        if queue is not None:
            queue.put_nowait(failed)
        self._history.fail(generation)

    def _engine_lost(self) -> None:
        self._epoch = None
        for generation in list(self._queues):
            self._fail(generation, ReplyFailed(kind="engine", message="the engine has ended"))

    def _make_known(self) -> None:
        """Tell an engine that has not met this conversation what was said in it."""
        if self._epoch != self._engine.restarts:
            self._epoch = self._engine.restarts
            self._call("open", self._system)
            if self._history.turns:
                self._call("replace", self._history.turns)

    def _drop_unseen(self) -> None:
        """Let the events of replies that were abandoned go."""
        for generation in list(self._queues):
            if not self._history.knows(generation):
                del self._queues[generation]

    def _call(self, method: str, *arguments: Any, named: tuple[tuple[str, Any], ...] = ()) -> None:
        if self._epoch is not None and self._epoch == self._engine.restarts:
            self._engine._send(Call(method, self.key, arguments, named))
