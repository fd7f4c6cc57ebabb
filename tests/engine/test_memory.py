"""Memory that nobody uses is given back, but not all the time."""

import os
import sys

import pytest
import torch

from llama_omni.bench.soak.server import held_by
from llama_omni.engine.memory import EVERY_S, Trimming, trimmer


def test_memory_is_given_back_now_and_then_and_only_after_something_was_freed():
    now, calls = [0.0], []
    memory = Trimming(lambda: calls.append(now[0]), clock=lambda: now[0])
    memory.now_and_then()
    memory.freed()
    memory.now_and_then()  # too early
    now[0] = EVERY_S
    memory.now_and_then()
    memory.now_and_then()  # nothing was freed since
    now[0] = 3 * EVERY_S
    memory.now_and_then()
    assert calls == [EVERY_S]
    memory.freed()
    memory.now_and_then()
    assert calls == [EVERY_S, 3 * EVERY_S]


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
