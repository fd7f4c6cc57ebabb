"""Seconds of each phase before the first token, without making the host wait for the device."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Phases:
    """A stopwatch for named phases: the clock on a CPU, events on CUDA.

    Args:
        device: where the phases run.
        clock: monotonic seconds.
    """

    def __init__(self, device: torch.device, clock: Callable[[], float]) -> None:
        self._clock, self._device, self._cuda = clock, device, device.type == "cuda"
        self._spans: list[tuple[str, Any, Any]] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time a phase; a name met again adds to its time."""
        begin = self._now()
        yield
        self._spans.append((name, begin, self._now()))

    def seconds(self) -> dict[str, float]:
        """Return the time of each phase; on CUDA, waits for the last of them to end."""
        totals: dict[str, float] = {}
        for name, begin, end in self._spans:
            if self._cuda:
                end.synchronize()
                span = begin.elapsed_time(end) / 1000
            else:
                span = end - begin
            totals[name] = totals.get(name, 0.0) + span
        return totals

    def _now(self) -> Any:
        if not self._cuda:
            return self._clock()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event
