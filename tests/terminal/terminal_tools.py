"""A microphone and speakers that are none, and a talk with them."""

import asyncio
import io
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import numpy as np

from llama_omni.serve.dialogue import Around
from llama_omni.serve.hearing import Ears
from llama_omni.serve.limits import ModelFacts, SessionLimits
from llama_omni.serve.metrics import ServeMetrics
from llama_omni.serve.session import Session
from llama_omni.terminal.screen import Screen
from llama_omni.terminal.talk import Talk
from tests.serve.turn_tools import LevelVad

RATE = 24_000
PATIENCE_S = 120.0


class FakeMicrophone:
    """Hears what it is given, `piece_ms` at each look, and silence where there is nothing."""

    def __init__(self, sample_rate=RATE, piece_ms=100):
        self.sample_rate = sample_rate
        self.state, self.failure = "made", None
        self._piece = piece_ms * sample_rate // 1000
        self._waiting = np.zeros(0, np.float32)

    @property
    def is_done(self):
        return not len(self._waiting)

    def hear(self, samples):
        self._waiting = np.concatenate([self._waiting, samples], dtype=np.float32)

    def start(self):
        self.state = "started"

    def read(self):
        if self.failure is not None:
            raise self.failure
        heard, self._waiting = self._waiting[: self._piece], self._waiting[self._piece :]
        return np.pad(heard, (0, self._piece - len(heard)))

    def close(self):
        self.state = "closed"


class FakeSpeakers:
    """Take sound in blocks of 10 ms from a thread of their own, `limit` samples of it at most."""

    def __init__(self, sample_rate=RATE, limit=None):
        self.sample_rate, self.latency_s = sample_rate, 0.0
        self.limit, self.state = limit, "made"
        self._blocks, self._num_sounding = [], 0
        self._ended = threading.Event()

    @property
    def played(self):
        """Everything from the first sound to the last."""
        return np.trim_zeros(np.concatenate([np.zeros(0, np.float32), *self._blocks]))

    @property
    def heard(self):
        """All that sounded, without the silence."""
        sound = self.played
        return sound[sound != 0.0]

    def start(self, fill):
        self.state = "started"
        self._thread = threading.Thread(target=self._run, args=(fill,), daemon=True)
        self._thread.start()

    def close(self):
        self._ended.set()
        self._thread.join()
        self.state = "closed"

    def _run(self, fill):
        while not self._ended.wait(0.002):
            if self.limit is not None and self._num_sounding >= self.limit:
                continue
            block = np.full(self.sample_rate // 100, np.nan, np.float32)
            fill(block)
            assert np.isfinite(block).all()
            self._num_sounding += len(block) if block.any() else 0
            self._blocks.append(block)


class Typed:
    """Lines that a test types."""

    def __init__(self, *lines, stays=True):
        self._lines = asyncio.Queue()
        for line in (*lines, *([] if stays else [None])):
            self._lines.put_nowait(line)

    def type(self, line):
        self._lines.put_nowait(line)

    async def __aiter__(self):
        while (line := await self._lines.get()) is not None:
            yield line


class Running:
    """A talk that runs, and what it has written."""

    def __init__(self, engine, *, make_vad=LevelVad, **how):
        self.engine, self.out, self.err = engine, io.StringIO(), io.StringIO()
        self.threads = ThreadPoolExecutor(1)
        around = Around(
            engine=engine,
            metrics=ServeMetrics(engine),
            recognizer=None,
            make_ears=lambda: Ears(make_vad, self.threads),
            may_speculate=lambda: True,
        )
        session = Session(
            ModelFacts(sample_rate=engine.sample_rate), SessionLimits(max_session_s=None)
        )
        self.typed = Typed()
        self.talk = Talk(session, around, Screen(self.out, self.err), **how)

    @property
    def answers(self):
        return self.out.getvalue().splitlines()

    @property
    def remarks(self):
        return self.err.getvalue().splitlines()

    async def until(self, condition):
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                assert not self.task.done(), self.task.result()
                await asyncio.sleep(0.005)


@asynccontextmanager
async def talking(engine, **how):
    """Run a talk that takes what is typed; leave it at the end."""
    running = Running(engine, **how)
    running.task = asyncio.create_task(running.talk.run(running.typed))
    try:
        yield running
        running.typed.type("/quit")
        await asyncio.wait_for(running.task, PATIENCE_S)
    finally:
        running.task.cancel()
        await asyncio.gather(running.task, return_exceptions=True)
        running.threads.shutdown()
