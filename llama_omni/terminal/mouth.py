"""What a talk says aloud: from a session's sound to the speakers, and how much of it was heard."""

import numpy as np

from llama_omni.interfaces import Audio
from llama_omni.serve.formats import AudioFormat
from llama_omni.serve.resampling import LiveResampler
from llama_omni.terminal.playback import Playback
from llama_omni.terminal.sound import Speakers

_SOUND = AudioFormat()
_LONGEST_S = 600.0  # of one delta; a session's are at most 1 s


class Mouth:
    """Says one answer at a time.

    Args:
        speakers: not started yet.
    """

    def __init__(self, speakers: Speakers) -> None:
        self._speakers = speakers
        self._playback = Playback(speakers.sample_rate)
        self._resampler = self._fresh()

    @property
    def is_silent(self) -> bool:
        """Whether all that was to be said was played."""
        return self._playback.is_silent

    @property
    def first_at(self) -> float | None:
        """When the first sound of the answer was to be heard (`time.monotonic`); None: not yet."""
        taken = self._playback.first_at
        return None if taken is None else taken + self._speakers.latency_s

    @property
    def said_s(self) -> float:
        """Seconds of the answer that came so far."""
        return self._playback.num_put / self._playback.sample_rate

    @property
    def num_gaps(self) -> int:
        """How often sound came too late, in all answers."""
        return self._playback.num_gaps

    def start(self) -> None:
        """Begin; the speakers play silence until something is said."""
        self._speakers.start(self._playback.fill)

    def say(self, delta: str) -> None:
        """Add base64 sound of a session behind what is still to be said."""
        samples = _SOUND.decode(delta, param="delta", max_s=_LONGEST_S)
        self._put(self._resampler.push(samples))

    def finish(self) -> None:
        """Take that the answer has no more sound."""
        self._put(self._resampler.push(np.zeros(0, np.float32), final=True))
        self._resampler = self._fresh()
        self._playback.finish()

    def stop(self) -> int:
        """Fall silent at once; return how many ms of the answer were heard."""
        heard_s = self._playback.num_played / self._playback.sample_rate
        if not self._playback.is_silent:  # what was taken last has not sounded yet
            heard_s = max(0.0, heard_s - self._speakers.latency_s)
        self._playback.begin()
        self._resampler = self._fresh()
        return int(1000 * heard_s)

    def close(self) -> None:
        """Give the speakers back."""
        self._speakers.close()

    def _put(self, samples: Audio) -> None:
        if len(samples):
            self._playback.put(samples)

    def _fresh(self) -> LiveResampler:
        return LiveResampler(_SOUND.sample_rate, self._playback.sample_rate)
