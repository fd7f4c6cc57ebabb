"""Sound from a microphone: the audio callback puts it in, the event loop takes it out."""

import numpy as np

from llama_omni.interfaces import Audio


class Capture:
    """A ring of samples with one writer and one reader, neither of which waits for the other.

    Each side changes only its own counter, after it has copied. What does not fit is dropped.

    Args:
        sample_rate: Hz.
        longest_s: seconds that may wait to be taken.
    """

    def __init__(self, sample_rate: int, *, longest_s: float = 10.0) -> None:
        self._ring = np.zeros(int(longest_s * sample_rate), np.float32)
        self._num_put = 0  # the callback's
        self._num_taken = 0  # the event loop's

    def put(self, samples: Audio) -> None:
        """Add (S,) samples; in the audio callback."""
        size, first = len(self._ring), self._num_put % len(self._ring)
        count = min(len(samples), size - (self._num_put - self._num_taken))
        straight = min(count, size - first)
        self._ring[first : first + straight] = samples[:straight]
        self._ring[: count - straight] = samples[straight:count]
        self._num_put += count

    def take(self) -> Audio:
        """Return all (S,) samples that wait."""
        end, size = self._num_put, len(self._ring)
        first, count = self._num_taken % size, end - self._num_taken
        straight = min(count, size - first)
        taken = np.concatenate(
            [self._ring[first : first + straight], self._ring[: count - straight]]
        )
        self._num_taken = end
        return taken
