"""Change the rate of live sound with a few milliseconds of delay.

`audio.StreamResampler` (soxr) works in large blocks: it holds back 10 to 37 ms of 24 kHz sound and
30 to 115 ms of 8 kHz sound, all of which a listener waits for after every turn. This filter holds
back `HALF_WIDTH` samples: 1.3 ms at 24 kHz, 4 ms at 8 kHz.
"""

from math import gcd

import numpy as np
from numpy.typing import NDArray

from llama_omni.errors import ConfigError

HALF_WIDTH = 32  # input samples that the filter sees on each side of an output sample
_KAISER_BETA = 7.0  # about 70 dB in the stop band
_PASSBAND = 0.92  # the cut-off, as a part of the lower of the two Nyquist frequencies
_MAX_PHASES = 480  # 11,025 to 16,000 Hz has 640: rates that far apart are no session's


class LiveResampler:
    """A windowed sinc for sound that arrives in pieces; output k is input time k / target rate.

    Every run of M input samples gives L output samples (M / L is source / target rate in lowest
    terms) as one product with a small matrix. The sound before the first piece is silence.
    """

    def __init__(self, source_rate: int, target_rate: int) -> None:
        if source_rate < 1 or target_rate < 1:
            raise ConfigError(f"sample_rate must be at least 1 Hz, got {source_rate} Hz")
        divisor = gcd(source_rate, target_rate)
        self._phases, self._stride = target_rate // divisor, source_rate // divisor
        if self._phases > _MAX_PHASES:
            raise ConfigError(
                f"sample_rate must be a simple ratio of {target_rate} Hz, got {source_rate} Hz; "
                "8000, 16000, 24000, 44100 and 48000 are"
            )
        self._bank = _bank(self._phases, self._stride)
        self._held = np.zeros(HALF_WIDTH, np.float32)
        self._num_in = self._num_out = 0

    def push(self, piece: NDArray[np.float32], *, final: bool = False) -> NDArray[np.float32]:
        """Take the next (S,) samples and return those that are now known; all with `final`."""
        if self._phases == self._stride:
            return piece
        self._num_in += len(piece)
        tail = [np.zeros(HALF_WIDTH + self._stride, np.float32)] if final else []
        held = np.concatenate([self._held, piece, *tail], dtype=np.float32)
        rows = max(0, (len(held) - len(self._bank)) // self._stride + 1)
        out = np.zeros(0, np.float32)
        if rows:
            shape, steps = (rows, len(self._bank)), (self._stride * held.itemsize, held.itemsize)
            windows = np.ndarray(shape, held.dtype, held, strides=steps)  # (rows, W), no copy
            out = (np.ascontiguousarray(windows) @ self._bank).reshape(-1)  # (rows * L,)
        self._held = held[rows * self._stride :]
        if final:
            wanted = round(self._num_in * self._phases / self._stride)
            out = out[: max(0, wanted - self._num_out)]
        self._num_out += len(out)
        return out


def _bank(phases: int, stride: int) -> NDArray[np.float32]:
    """Return (W, L): the weight of each input sample of a window for each of L output samples."""
    position = np.arange(-HALF_WIDTH, stride + HALF_WIDTH)[:, None]
    offset = position - np.arange(phases) * (stride / phases)  # in input samples
    cutoff = _PASSBAND * min(1.0, phases / stride)  # of the input's Nyquist frequency
    inside = np.clip(1.0 - (offset / HALF_WIDTH) ** 2, 0.0, None)
    window = np.i0(_KAISER_BETA * np.sqrt(inside)) * (np.abs(offset) <= HALF_WIDTH)
    bank = np.sinc(cutoff * offset) * window
    return (bank / bank.sum(axis=0)).astype(np.float32)
