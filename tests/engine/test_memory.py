"""Memory that nobody uses is given back, but not all the time."""

import os
import sys

import pytest
import torch

from llama_omni.bench.soak.server import held_by
from llama_omni.engine.memory import BUSY_S, IDLE_S, Trimming, trimmer


def test_memory_is_given_back_now_and_then_and_only_after_something_was_freed():
    now, calls = [0.0], []
    memory = Trimming(lambda: calls.append(now[0]), clock=lambda: now[0])

    def at(seconds, *, busy=False):
        now[0] = seconds
        memory.now_and_then(busy=busy)

    at(IDLE_S)  # nothing was freed yet
    memory.freed()
    at(IDLE_S - 1)  # too early
    at(IDLE_S)
    at(3 * IDLE_S)  # nothing was freed since
    assert calls == [IDLE_S]
    memory.freed()
    at(3 * IDLE_S, busy=True)  # too early for those who talk
    at(IDLE_S + BUSY_S, busy=True)
    assert calls == [IDLE_S, IDLE_S + BUSY_S]


@pytest.mark.skipif(trimmer() is None, reason="this system's C library cannot")
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_holes_between_what_lives_on_go_back_to_the_system():
    size = 100_000  # bytes, below the size from which the C library asks the system each time
    pieces = [torch.ones(size // 4) for _ in range(1000)]
    kept = pieces[::20]
    full = held_by(os.getpid()).rss
    del pieces
    trim = trimmer()
    assert trim is not None
    trim()
    assert full - held_by(os.getpid()).rss > 0.6 * 1000 * size
    assert all(float(piece[0]) == 1.0 for piece in kept)
