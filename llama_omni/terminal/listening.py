"""What a talk hears: from the microphone to the session's input, on the session's clock."""

import time

import numpy as np

from llama_omni.interfaces import Audio
from llama_omni.serve.formats import AudioFormat
from llama_omni.serve.resampling import LiveResampler
from llama_omni.terminal.sound import Microphone

_SOUND = AudioFormat()
_TAIL_S = 0.25  # that a room goes on sounding for


class Listening:
    """Turns what a microphone hears into events of a client.

    Args:
        microphone: not started yet.
        half_duplex: hear silence while an answer sounds.
    """

    def __init__(self, microphone: Microphone, *, half_duplex: bool = False) -> None:
        self._microphone, self._half_duplex = microphone, half_duplex
        self._resampler = LiveResampler(microphone.sample_rate, _SOUND.sample_rate)
        self._num_heard = 0
        self._deaf_until = 0.0

    @property
    def heard_ms(self) -> float:
        """How much the session was given: its clock."""
        return 1000.0 * self._num_heard / _SOUND.sample_rate

    def start(self) -> None:
        """Begin to hear."""
        self._microphone.start()

    def read(self, *, speaking: bool) -> dict[str, str] | None:
        """Return what was heard since the last call as an event; None: nothing.

        Args:
            speaking: whether an answer sounds now.

        Raises:
            InputError: the microphone is gone.
        """
        samples = self._resampler.push(self._microphone.read())
        if not len(samples):
            return None
        if self._half_duplex:
            now = time.monotonic()
            self._deaf_until = now + _TAIL_S if speaking else self._deaf_until
            if now < self._deaf_until:
                samples = np.zeros_like(samples)
        self._num_heard += len(samples)
        return {"type": "input_audio_buffer.append", "audio": _SOUND.encode(samples)}

    def close(self) -> None:
        """Give the microphone back."""
        self._microphone.close()


class Deaf:
    """A voice detector for talks without a microphone."""

    def probability(self, chunk: Audio) -> float:  # noqa: ARG002
        """Hear no voice."""
        return 0.0

    def reset(self) -> None:
        """Forget nothing."""
