"""Memory that the C library holds but nobody uses, given back to the system.

Storage of conversations is large, of many sizes, and comes and goes: the allocator keeps the holes
between what lives on. Where a process serves for weeks, that is memory that others lack.
"""

import ctypes
import sys
import time
from collections.abc import Callable

# At most so often. 100 MB given back take about 15 ms, in which nobody's sound is made; waiting for
# a minute while people talk let an engine of 580 MiB grow by 15 %.
EVERY_S = 10.0


def trimmer() -> Callable[[], object] | None:
    """Return what gives free memory back; None where the C library cannot (musl, macOS)."""
    if not sys.platform.startswith("linux"):
        return None
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return None if trim is None else lambda: trim(0)


class Trimming:
    """Gives memory back now and then.

    Args:
        trim: as `trimmer` returns it.
        clock: in seconds.
    """

    def __init__(
        self,
        trim: Callable[[], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._trim, self._clock = trim or trimmer(), clock
        self._last = clock()
        self._freed = False

    def freed(self) -> None:
        """Note that something was freed."""
        self._freed = True

    def now_and_then(self) -> None:
        """Give memory back if anything was freed, and the last time was long enough ago."""
        if self._freed and self._trim is not None and self._clock() - self._last >= EVERY_S:
            self._trim()
            self._last, self._freed = self._clock(), False
