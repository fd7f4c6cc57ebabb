"""One measurement: N clients at once, with speculation or without, over a network or directly."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from time import monotonic
from typing import Protocol, Self, runtime_checkable

from llama_omni.bench.serve.direct import DirectTalker
from llama_omni.bench.serve.numbers import Row, percentiles, speculation, summarise
from llama_omni.bench.serve.server import Server, counters, loop_lag, serving
from llama_omni.bench.serve.settings import DirectSettings, LoadSettings
from llama_omni.bench.serve.speech import Utterance
from llama_omni.bench.serve.turns import Turn
from llama_omni.errors import EngineError
from llama_omni.interfaces import ReplyOptions
from llama_omni.remote.client import RemoteEngine
from llama_omni.remote.factory import Factory

KNOCK_S = 0.2  # between questions for the server's health
_LEAD_S = 0.1  # before the first client starts


@runtime_checkable
class Talks(Protocol):
    """A client."""

    turns: list[Turn]
    lags_s: list[float]

    async def talk(self, *, starts: float, ends: float) -> None:
        """Begin turns until a time has come."""
        ...


@runtime_checkable
class Bench(Protocol):
    """Measures."""

    async def cell(self, clients: int, *, speculate: bool) -> Row:
        """Return the numbers of so many clients."""
        ...


async def crowd(talkers: Sequence[Talks], settings: LoadSettings) -> Row:
    """Let all clients talk, each beginning a little after the one before; return their numbers."""
    begun = monotonic() + _LEAD_S
    gap_s = settings.stagger_s / len(talkers)
    ends = begun + settings.seconds
    async with asyncio.TaskGroup() as group:
        for place, talker in enumerate(talkers):
            group.create_task(talker.talk(starts=begun + place * gap_s, ends=ends))
    turns = [turn for talker in talkers for turn in talker.turns]
    row = summarise(turns, wall_s=monotonic() - begun)
    lags = [lag for talker in talkers for lag in talker.lags_s]
    return {**row, "client_lag_s": percentiles(lags), "each": [turn.row() for turn in turns]}


class SocketBench:
    """Real servers, one with speculation and one without; whichever is not asked is idle.

    Args:
        arguments: of `llama-omni serve`.
        questions: at the API's rate.
        settings: what the clients do.
    """

    def __init__(
        self, arguments: Sequence[str], questions: Sequence[Utterance], settings: LoadSettings
    ) -> None:
        self._arguments, self._questions, self._settings = arguments, questions, settings
        self._servers: dict[bool, Server] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def cell(self, clients: int, *, speculate: bool) -> Row:
        """Return the numbers of so many clients."""
        server = await self._server(speculate)
        before = await server.numbers()
        async with _knocking(server) as knocks:
            row = await crowd(self._talkers(server, clients, self._settings), self._settings)
        after = await server.numbers()
        return {
            **row,
            "speculated": speculation(counters(before), counters(after)),
            "loop_lag_s": loop_lag(before, after),
            "knock_s": percentiles(knocks),
        }

    def _talkers(self, server: Server, clients: int, settings: LoadSettings) -> list[Talks]:
        # Here, so that driving an engine directly needs no WebSocket.
        from llama_omni.bench.serve.client import Talker

        return [
            Talker(number=number, url=server.ws, questions=self._questions, settings=settings)
            for number in range(clients)
        ]

    async def _server(self, speculate: bool) -> Server:
        if speculate not in self._servers:
            started = serving(self._arguments, speculate=speculate)
            server = self._servers[speculate] = await self._stack.enter_async_context(started)
            once = replace(self._settings, turns=1, inner_pauses=0.0)  # what is slow only once
            await crowd(self._talkers(server, 1, once), once)
        return self._servers[speculate]


class DirectBench:
    """An engine in a process of its own, without a server.

    Args:
        factory: makes the engine.
        questions: at 16 kHz.
        options: of each reply.
        settings: what the conversations do.
        direct: what stands for the turn detector.
    """

    def __init__(
        self,
        factory: Factory,
        questions: Sequence[Utterance],
        options: ReplyOptions,
        settings: LoadSettings,
        direct: DirectSettings,
    ) -> None:
        self._factory, self._questions, self._options = factory, questions, options
        self._settings, self._direct = settings, direct
        self._engine: RemoteEngine | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._engine is not None:
            await self._engine.close()

    async def cell(self, clients: int, *, speculate: bool) -> Row:
        """Return the numbers of so many conversations."""
        if self._engine is None:
            self._engine = RemoteEngine(self._factory, restart=False)
            await self._engine.start(_LOAD_S)
            once = replace(self._settings, turns=1, stagger_s=_LEAD_S)
            # As many at once as here, so that the caches have their size.
            await crowd(self._talkers(max(self._settings.clients), once, False, Counter()), once)
        counted: Counter[str] = Counter()
        before = self._engine.numbers
        row = await crowd(
            self._talkers(clients, self._settings, speculate, counted), self._settings
        )
        after = self._engine.numbers
        for name in ("abandoned", "unheard_tokens", "tokens"):
            counted[name] = getattr(after, name) - getattr(before, name)
        return {**row, "speculated": speculation({}, counted), "cache_bytes": after.cache_bytes}

    def _talkers(
        self, clients: int, settings: LoadSettings, speculate: bool, counted: Counter[str]
    ) -> list[Talks]:
        assert self._engine is not None
        engine: RemoteEngine = self._engine
        return [
            DirectTalker(
                number=number,
                engine=engine,
                numbers=lambda: engine.numbers,
                questions=self._questions,
                options=self._options,
                settings=settings,
                direct=self._direct,
                speculate=speculate,
                counted=counted,
            )
            for number in range(clients)
        ]


_LOAD_S = 1_200.0  # for weights


@asynccontextmanager
async def _knocking(server: Server) -> AsyncIterator[list[float]]:
    """Ask for the server's health again and again; give the list that the times go into."""
    times: list[float] = []

    async def knock() -> None:
        while True:
            begun = monotonic()
            with contextlib.suppress(EngineError):  # so late that it counts as a time like others
                await server.alive()
            times.append(monotonic() - begun)
            await asyncio.sleep(KNOCK_S)

    task = asyncio.create_task(knock())
    try:
        yield times
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
