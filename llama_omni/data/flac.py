"""Sound as it is stored in a data set: FLAC in memory, 16 kHz, mono, 16 bit."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_omni.audio import SAMPLE_RATE, pcm16
from llama_omni.errors import AudioError, MissingExtraError


def encode_flac(samples: NDArray[np.float32]) -> bytes:
    """Return (S,) samples at 16 kHz, clipped to [-1, 1], as a FLAC file; S must be above 0."""
    sink = io.BytesIO()
    _soundfile().write(sink, pcm16(samples), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return sink.getvalue()


def decode_flac(data: bytes, name: str) -> NDArray[np.float32]:
    """Return the (S,) samples of a file in memory that `encode_flac` made, or of an Ogg Opus one.

    Args:
        data: The file.
        name: What a message calls it.

    Raises:
        AudioError: It is damaged, or not at 16 kHz.
    """
    soundfile = _soundfile()
    try:
        samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        reason = error.error_string.rstrip(".")
        raise AudioError(f"{name} must hold FLAC, got: {reason}") from error
    if rate != SAMPLE_RATE:
        raise AudioError(f"{name} must be at {SAMPLE_RATE} Hz, got {rate} Hz")
    return samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)  # (S,)


def seconds_of(data: bytes) -> float:
    """Return the length that the header of an `encode_flac` file gives, in seconds."""
    return _soundfile().info(io.BytesIO(data)).frames / SAMPLE_RATE


def _soundfile() -> Any:
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: the package without its C library
        raise MissingExtraError("soundfile", "data", "stored sound") from error
    return soundfile
