"""Sound on its way to the speakers: the event loop puts it in, the audio callback takes it out."""

import time
from collections import deque

import numpy as np

from llama_omni.interfaces import Audio

_NOTHING = np.zeros(0, np.float32)


class Playback:
    """The sound of one answer at a time; silence where there is none.

    Neither side waits for the other: each changes only its own fields, and every piece carries the
    number of its answer, so that nothing of an answer that was stopped is heard after another.

    Args:
        sample_rate: Hz.
        start_s: seconds that must wait before an answer begins, and goes on after it ran out.
    """

    def __init__(self, sample_rate: int, *, start_s: float = 0.06) -> None:
        self.sample_rate = sample_rate
        self._start = int(start_s * sample_rate)
        # The event loop's.
        self._pieces: deque[tuple[int, Audio]] = deque()
        self._answer = 0
        self._num_put = 0  # samples of this answer
        self._is_whole = True
        # The callback's.
        self._played_answer = 0
        self._num_played = 0  # samples of that answer
        self._rest = _NOTHING  # of the piece that is being played
        self._runs = False
        self._first_at: float | None = None
        self.num_gaps = 0  # how often sound came too late

    # The event loop

    @property
    def num_put(self) -> int:
        """How many samples of this answer there are so far."""
        return self._num_put

    @property
    def num_played(self) -> int:
        """How many of them the speakers took."""
        return self._num_played if self._played_answer == self._answer else 0

    @property
    def first_at(self) -> float | None:
        """When the speakers took the first of them (`time.monotonic`)."""
        return self._first_at if self._played_answer == self._answer else None

    @property
    def is_silent(self) -> bool:
        """Whether there is nothing left to play, and nothing to come."""
        return self._is_whole and self.num_played >= self._num_put

    def begin(self) -> None:
        """Forget what has not been played; what is put in from here on is another answer."""
        self._num_put, self._is_whole = 0, True
        self._answer += 1  # the callback, which alone takes pieces out, passes over the old ones

    def put(self, samples: Audio) -> None:
        """Add (S,) samples behind what is still to be played."""
        self._is_whole = False
        self._pieces.append((self._answer, samples))
        self._num_put += len(samples)

    def finish(self) -> None:
        """Take that the answer has no more sound."""
        self._is_whole = True

    # The audio callback

    def fill(self, out: Audio) -> None:
        """Fill (S,) samples with what comes next, and silence behind it."""
        answer = self._answer
        if answer != self._played_answer:
            self._rest, self._runs, self._first_at = _NOTHING, False, None
            self._num_played, self._played_answer = 0, answer
        waiting = self._num_put - self._num_played
        self._runs = self._runs or waiting >= (1 if self._is_whole else max(1, self._start))
        done = self._copy(out, answer) if self._runs else 0
        out[done:] = 0.0
        if done and self._first_at is None:
            self._first_at = time.monotonic()
        self._num_played += done
        if self._runs and done < len(out):
            self._runs = False
            self.num_gaps += not self._is_whole

    def _copy(self, out: Audio, answer: int) -> int:
        done = 0
        while done < len(out):
            while not len(self._rest):
                if not self._pieces or self._pieces[0][0] > answer:
                    return done
                owner, piece = self._pieces.popleft()
                self._rest = piece if owner == answer else _NOTHING
            count = min(len(out) - done, len(self._rest))
            out[done : done + count] = self._rest[:count]
            self._rest = self._rest[count:]
            done += count
        return done
