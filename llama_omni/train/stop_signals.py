"""Ctrl-C and SIGTERM ask a run to save and stop; they do not cut its step in two."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

logger = logging.getLogger(__name__)


@contextmanager
def watch_signals() -> Iterator[list[int]]:
    """Give the list that the first SIGINT or SIGTERM gets into; a second one stops at once.

    Signals reach the main thread alone: in another, the list stays empty.

    Raises:
        KeyboardInterrupt: the second signal came.
    """
    seen: list[int] = []

    def note(number: int, _: Any) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)
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
