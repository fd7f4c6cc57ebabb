"""The last seconds of a stream of samples, addressed by their place in the whole stream."""

import numpy as np

from llama_omni.interfaces import Audio

_SMALLEST = 16_384  # samples: 1 s at 16 kHz


class SampleBuffer:
    """Samples `first` to `end` (exclusive) of a stream; its memory follows what it holds."""

    def __init__(self) -> None:
        self._data = np.zeros(_SMALLEST, np.float32)
        self._at = 0  # where sample `first` lies in the array
        self.first = self.end = 0

    def __len__(self) -> int:
        return self.end - self.first

    def append(self, samples: Audio) -> None:
        """Add samples at the end."""
        used = len(self)
        if self._at + used + len(samples) > len(self._data):
            self._move(used + len(samples))
        self._data[self._at + used : self._at + used + len(samples)] = samples
        self.end += len(samples)

    def take(self, first: int, end: int) -> Audio:
        """Copy samples `first` to `end`, as far as they are held."""
        first, end = max(first, self.first), min(end, self.end)
        begin = self._at + first - self.first
        return self._data[begin : begin + max(0, end - first)].copy()

    def drop(self, before: int) -> None:
        """Forget what lies before a place of the stream."""
        before = min(max(before, self.first), self.end)
        self._at += before - self.first
        self.first = before
        if len(self._data) > _SMALLEST and len(self) < len(self._data) // 8:
            self._move(len(self))

    def restart(self, at: int) -> None:
        """Forget everything; the next sample is number `at`."""
        self.drop(self.end)
        self.first = self.end = at

    def _move(self, needed: int) -> None:
        """Bring what is held to the front of a new array with room for as much again."""
        held = self.take(self.first, self.end)
        self._data = np.zeros(max(_SMALLEST, 2 * needed), np.float32)
        self._data[: len(held)] = held
        self._at = 0
