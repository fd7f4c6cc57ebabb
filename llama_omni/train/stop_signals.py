"""Ctrl-C and SIGTERM ask a run to save and stop; they do not cut its step in two."""

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

logger = logging.getLogger(__name__)

_SAME_S = 0.5


@contextmanager
def watch_signals() -> Iterator[list[int]]:
    """Give the list that the first SIGINT or SIGTERM gets into; a second one stops at once.

    One that comes within half a second of the first, as when a launcher hands on what the whole
    group of processes was sent, is taken for the same.

    Signals reach the main thread alone: in another, the list stays empty.

    Raises:
        KeyboardInterrupt: the second signal came.
    """
    seen: list[int] = []
    first_at = 0.0

    def note(number: int, _: Any) -> None:
        nonlocal first_at
        if seen and time.monotonic() - first_at < _SAME_S:
            return
        if seen:
            raise KeyboardInterrupt
        seen.append(number)
        first_at = time.monotonic()
        logger.warning("stopping after this step, a checkpoint is saved signal=%d", number)

    if threading.current_thread() is not threading.main_thread():
        yield seen
        return
    before = {n: signal.signal(n, note) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
