"""How far a long part of the measurement is: a bar on a terminal, else a line now and then."""

import logging
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Item = TypeVar("Item")
EVERY_S = 30.0  # between lines

logger = logging.getLogger(__name__)


def watched(items: Sequence[Item], what: str) -> Iterator[Item]:
    """Yield the items, showing how many are done and how long the rest will take."""
    console = Console(stderr=True)
    if console.is_terminal:
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
        with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
            yield from bar.track(items, total=len(items), description=what)
        return
    begun = shown = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if now - shown >= EVERY_S:
            shown = now
            left = (now - begun) / done * (len(items) - done)
            logger.info("%s done=%d of=%d left_s=%.0f", what, done, len(items), left)
        yield item
