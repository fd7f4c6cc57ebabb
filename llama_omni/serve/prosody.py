"""Loudness and pitch at the end of a stretch of speech. NumPy; about 5 ms for 2 s of sound."""

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from llama_omni.audio import SAMPLE_RATE
from llama_omni.interfaces import Audio

FRAME_MS = 10  # one value of loudness and pitch for each
_HOP = SAMPLE_RATE * FRAME_MS // 1000
_WINDOW = 640  # samples: 40 ms, three periods of the lowest voice
_FFT = 1024  # at least the window and the longest lag, a power of two
_LOWEST_HZ, _HIGHEST_HZ = 70, 400
_PERIODIC = 0.55  # normalised autocorrelation from which a frame counts as voiced
_LOUD_DB = 25.0  # frames further below the loudest are not voice
_SILENT = 1e-10  # mean square of digital silence


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Prosody:
    """Loudness and pitch of each 10 ms frame."""

    loudness_db: NDArray[np.floating]  # (F,) of full scale
    semitones: NDArray[np.floating]  # (F,) above 70 Hz; NaN where there is no voice


def measure(speech: Audio) -> Prosody:
    """Measure speech at 16 kHz; shorter than one window, there are no frames."""
    if len(speech) < _WINDOW:
        return Prosody(loudness_db=np.zeros(0), semitones=np.zeros(0))
    frames = sliding_window_view(speech, _WINDOW)[::_HOP]  # (F, 640)
    frames = (frames - frames.mean(axis=1, keepdims=True)) * _HANN
    power = (frames**2).mean(axis=1)
    loudness = 10.0 * np.log10(np.maximum(power, _SILENT))
    spectrum = np.abs(np.fft.rfft(frames, _FFT)) ** 2
    shortest, longest = SAMPLE_RATE // _HIGHEST_HZ, SAMPLE_RATE // _LOWEST_HZ
    similar = np.fft.irfft(spectrum)[:, : longest + 1] / _WINDOW_SIMILARITY[: longest + 1]
    similar = similar / np.maximum(similar[:, :1], _SILENT)
    similar = similar[:, shortest:]  # (F, lags)
    # The first peak that is nearly the best: later ones are the pitch's own multiples.
    best = similar.max(axis=1)
    inner = similar[:, 1:-1]
    peaks = (inner >= similar[:, :-2]) & (inner > similar[:, 2:]) & (inner > 0.9 * best[:, None])
    lag = shortest + 1 + np.argmax(peaks, axis=1)
    voiced = (best > _PERIODIC) & peaks.any(axis=1) & (power > _SILENT)
    voiced &= loudness > loudness.max() - _LOUD_DB
    pitch = 12.0 * np.log2(SAMPLE_RATE / lag / _LOWEST_HZ)
    return Prosody(loudness_db=loudness, semitones=np.where(voiced, pitch, np.nan))


def _window_similarity() -> NDArray[np.float32]:
    """Autocorrelation of the window itself: without it short lags would always win."""
    similar = np.fft.irfft(np.abs(np.fft.rfft(_HANN, _FFT)) ** 2)
    return (similar / similar[0]).astype(np.float32)


_HANN = np.hanning(_WINDOW).astype(np.float32)
_WINDOW_SIMILARITY = _window_similarity()
