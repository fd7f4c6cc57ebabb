"""Audio at the package's boundary: files, arrays, rates and PCM. NumPy only, no torch.

Inside the package sound is mono float32 in [-1, 1]; what a model listens to is at `SAMPLE_RATE`.
"""

import importlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_omni.errors import AudioError, OutputError


def exact_div(dividend: int, divisor: int) -> int:
    """Divide two whole numbers that must have a whole quotient."""
    quotient, remainder = divmod(dividend, divisor)
    if remainder:
        raise ValueError(f"{dividend} must be a multiple of {divisor}, got remainder {remainder}")
    return quotient


SAMPLE_RATE = 16_000  # Hz: of everything that a model listens to
HOP = 160  # samples per mel frame
ENCODER_STRIDE = 2  # mel frames per encoder frame
STACK = 5  # k: encoder frames per speech embedding
UNIT_HOP = 320  # samples at SAMPLE_RATE per unit
MEL_RATE = exact_div(SAMPLE_RATE, HOP)  # 100 Hz
ENCODER_RATE = exact_div(MEL_RATE, ENCODER_STRIDE)  # 50 Hz
EMBEDDING_RATE = exact_div(ENCODER_RATE, STACK)  # 10 Hz
UNIT_RATE = exact_div(SAMPLE_RATE, UNIT_HOP)  # 50 Hz

WINDOW_S = 30  # seconds that the encoder sees at once
WINDOW_SAMPLES = WINDOW_S * SAMPLE_RATE  # 480,000
WINDOW_MELS = exact_div(WINDOW_SAMPLES, HOP)  # 3,000
MIN_S = 1 / EMBEDDING_RATE  # 0.1 s: one speech embedding
MAX_S = float(WINDOW_S)

_RATES = (1_000, 768_000)  # Hz: outside of this it is no recording of speech
_MAX_PEAK = 16.0  # full scale is 1; integers that were cast but not scaled reach thousands
_UNCOUNTED = 1 << 62  # libsndfile gives 2^63 - 1 frames where a header holds no count
_BLOCK = 65_536  # frames read or written at once; one huge Vorbis block overflows the C stack
_FORMATS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}


def load(
    path: str | os.PathLike[str],
    *,
    sample_rate: int = SAMPLE_RATE,
    min_s: float = MIN_S,
    max_s: float = MAX_S,
) -> NDArray[np.float32]:
    """Read a file of speech: WAV, FLAC, OGG or MP3, at any rate and with any channels.

    Args:
        path: The file.
        sample_rate: Rate of the result in Hz; the file is resampled to it.
        min_s: Shortest length accepted, in seconds.
        max_s: Longest length accepted, in seconds. A longer file is refused by its header where
            that holds a length, and else after max_s seconds; it is never decoded whole.

    Returns:
        (S,) the mean of the channels, clipped to [-1, 1].

    Raises:
        AudioError: The file cannot be used; the message says why and what could.
    """
    file = Path(path)
    try:
        if file.is_dir():
            raise AudioError(f"{file} must be an audio file, got a folder")
        with file.open("rb") as stream:
            if not os.fstat(stream.fileno()).st_size:
                raise AudioError(f"{file} must hold audio, got an empty file")
            mono, source_rate = _decode(file, stream.fileno(), max_s)
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise AudioError(f"{file} must be a readable file, got {reason}") from error
    mono = check(mono, sample_rate=source_rate, min_s=min_s, max_s=max_s, name=str(file))
    return np.clip(resample(mono, source_rate, sample_rate), -1.0, 1.0)


def _decode(file: Path, descriptor: int, max_s: float) -> tuple[NDArray[np.float32], int]:
    """Decode at most a block more than max_s seconds; return mono samples and their rate."""
    soundfile = _library("soundfile")
    try:
        # A descriptor, not a name: soundfile would take a name's suffix for the format.
        with soundfile.SoundFile(descriptor, closefd=False) as source:
            rate = source.samplerate
            _check_rate(rate, str(file))
            counted = source.frames < _UNCOUNTED
            if counted and source.frames > max_s * rate:
                raise _too_long(str(file), max_s, f"{source.frames / rate:.1f} s")
            pieces = [np.zeros(0, np.float32)]
            done = 0
            for piece in _blocks(source, counted):
                pieces.append(piece)
                done += len(piece)
                if done > max_s * rate:
                    raise _too_long(str(file), max_s, "more than its header says")
    except soundfile.LibsndfileError as error:
        reason = error.error_string.rstrip(".")
        raise AudioError(f"{file} must be audio (WAV, FLAC, OGG or MP3), got: {reason}") from error
    return np.concatenate(pieces), rate


def _blocks(source: Any, counted: bool) -> Iterator[NDArray[np.float32]]:
    """Yield the mean of the channels block by block.

    A FLAC written to a pipe has no count of frames; soundfile decodes its last block and then
    fails to seek behind it, so there the samples that did arrive are told by a NaN that did not.
    """
    while True:
        block = np.full((_BLOCK, source.channels), np.nan, np.float32)
        try:
            block = source.read(out=block)
        except _library("soundfile").LibsndfileError:
            if counted:
                raise
            block = block[: int(np.count_nonzero(~np.isnan(block[:, 0])))]
        yield block.mean(axis=1, dtype=np.float32)
        if len(block) < _BLOCK:
            return


def check(
    samples: object,
    *,
    sample_rate: int = SAMPLE_RATE,
    min_s: float = MIN_S,
    max_s: float = MAX_S,
    name: str = "audio",
) -> NDArray[np.float32]:
    """Return an array that was handed in as mono float32, or refuse it.

    Accepts float32 and float64, of shape (S,), (1, S) or (S, 1). Silence is fine.

    Args:
        samples: The array, full scale [-1, 1].
        sample_rate: Its rate in Hz, by which its length is judged.
        min_s: Shortest length accepted, in seconds.
        max_s: Longest length accepted, in seconds.
        name: What a message calls it.

    Raises:
        AudioError: With what must change.
    """
    if not isinstance(samples, np.ndarray):
        raise AudioError(f"{name} must be a NumPy array, got {type(samples).__name__}")
    if samples.dtype not in (np.float32, np.float64):
        raise AudioError(
            f"{name} must be float32 in [-1, 1], got {samples.dtype}; divide int16 by 32768"
        )
    if samples.ndim == 2 and 1 in samples.shape:
        samples = samples.reshape(-1)  # (S,)
    if samples.ndim != 1:
        raise AudioError(f"{name} must be mono, of shape (S,), got shape {samples.shape}")
    _check_rate(sample_rate, name)
    length_s = len(samples) / sample_rate
    if length_s < min_s:
        raise AudioError(f"{name} must be at least {min_s:g} s long, got {length_s:.3g} s")
    if length_s > max_s:
        raise _too_long(name, max_s, f"{length_s:.1f} s")
    _check_finite(samples, sample_rate, name)
    peak = float(np.abs(samples).max(initial=0.0))
    if peak > _MAX_PEAK:
        raise AudioError(f"{name} must lie in [-1, 1], got a peak of {peak:g}")
    return np.require(samples, np.float32, ["C", "W"])  # what torch can share


def _check_rate(sample_rate: int, name: str) -> None:
    low, high = _RATES
    if not low <= sample_rate <= high:
        raise AudioError(
            f"{name} must have a sample rate of {low} to {high} Hz, got {sample_rate} Hz"
        )


def _check_finite(samples: NDArray[np.floating], sample_rate: int, name: str) -> None:
    finite = np.isfinite(samples)
    if not finite.all():
        first = int(np.argmin(finite))
        raise AudioError(
            f"{name} must hold finite samples, got {samples[first]} at {first / sample_rate:.3f} s"
        )


def _too_long(name: str, max_s: float, found: str) -> AudioError:
    return AudioError(f"{name} must be at most {max_s:g} s long, got {found}")


def save(path: str | os.PathLike[str], samples: NDArray[np.floating], sample_rate: int) -> None:
    """Write mono sound; the format follows the suffix. The file appears whole or not at all.

    Args:
        path: A name that ends with .wav or .flac (16 bit), .ogg (Vorbis) or .mp3.
        samples: (S,) clipped to [-1, 1]. WAV and OGG can hold no sound at all (S = 0).
        sample_rate: In Hz.

    Raises:
        OutputError: The place cannot be written to, or the format cannot hold this.
        AudioError: The samples are not mono, or not finite.
    """
    soundfile = _library("soundfile")
    target, (container, subtype) = Path(path), _format_of(path)
    if samples.ndim != 1:
        raise AudioError(f"audio must be mono, of shape (S,), got shape {samples.shape}")
    _check_finite(samples, sample_rate, "audio")
    if not len(samples) and container in ("FLAC", "MP3"):
        raise OutputError(f"{target} must end with .wav or .ogg to hold no sound, got 0 samples")
    data = pcm16(samples) if subtype == "PCM_16" else np.clip(samples, -1.0, 1.0)
    with _part_file(target) as descriptor:
        try:
            with soundfile.SoundFile(
                descriptor,
                "w",
                samplerate=sample_rate,
                channels=1,
                format=container,
                subtype=subtype,
                closefd=False,
            ) as sink:
                for first in range(0, len(data), _BLOCK):
                    sink.write(data[first : first + _BLOCK])
        except (soundfile.LibsndfileError, AssertionError) as error:
            # soundfile asserts that each block was written whole; a full disk breaks that.
            reason = getattr(error, "error_string", "") or "a part of it only"
            raise OutputError(
                f"{target} must be writable as {container} at {sample_rate} Hz, got: {reason}"
            ) from error


def check_output(path: str | os.PathLike[str]) -> None:
    """Refuse a place that `save` could not write to, before anything is computed for it.

    Raises:
        OutputError: Unknown suffix, missing or unwritable folder, or a folder of that name.
    """
    _format_of(path)
    with _part_file(Path(path), keep=False):
        pass


def _format_of(path: str | os.PathLike[str]) -> tuple[str, str]:
    target = Path(path)
    known = _FORMATS.get(target.suffix.lower())
    if known is None:
        raise OutputError(
            f"{target} must end with {', '.join(_FORMATS)}, got suffix {target.suffix!r}"
        )
    return known


@contextmanager
def _part_file(target: Path, *, keep: bool = True) -> Iterator[int]:
    """Give a descriptor of a file beside `target` that becomes it, unless something is raised."""
    if target.is_dir():
        raise OutputError(f"{target} must name a file, got a folder")
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        # Not tempfile's: those are readable by their owner alone, and keep that mode when renamed.
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    except OSError as error:
        raise OutputError(f"{target} must be in a writable folder, got {error.strerror}") from error
    try:
        try:
            yield descriptor
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if keep:
            part.replace(target)
    except OSError as error:
        raise OutputError(f"{target} must be writable, got {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)


def resample(
    samples: NDArray[np.float32], source_rate: int, target_rate: int
) -> NDArray[np.float32]:
    """Change the rate of (S,) samples, band-limited; (round(S * target / source),) samples."""
    return StreamResampler(source_rate, target_rate).push(samples, final=True)


class StreamResampler:
    """Change the rate of sound that arrives in pieces; any split gives the same samples."""

    def __init__(self, source_rate: int, target_rate: int) -> None:
        _check_rate(source_rate, "audio")
        _check_rate(target_rate, "resampled audio")
        self._stream = (
            None
            if source_rate == target_rate
            else _library("soxr").ResampleStream(
                source_rate, target_rate, 1, dtype="float32", quality="HQ"
            )
        )

    def push(self, piece: NDArray[np.float32], *, final: bool = False) -> NDArray[np.float32]:
        """Take the next (S,) samples and return those that are now known; all with `final`."""
        if self._stream is None:
            return piece
        return self._stream.resample_chunk(np.ascontiguousarray(piece), last=final)


def pcm16(samples: NDArray[np.floating]) -> NDArray[np.int16]:
    """Round float samples to 16 bit; exact for samples that came from 16 bit."""
    return np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)


def pcm16_encode(samples: NDArray[np.floating]) -> bytes:
    """Return samples as little-endian 16 bit PCM."""
    return pcm16(samples).astype("<i2").tobytes()


def pcm16_decode(data: bytes) -> NDArray[np.float32]:
    """Read little-endian 16 bit PCM as (S,) samples in [-1, 1).

    Raises:
        AudioError: An odd number of bytes.
    """
    if len(data) % 2:
        raise AudioError(f"16 bit PCM must be an even number of bytes, got {len(data)}")
    return np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32768.0)


def _library(name: str) -> Any:
    """Import what only sound files need: a machine that trains or measures may lack it."""
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:  # OSError: the package without its C library
        raise AudioError(
            f"sound files need the package {name}, got: {error}; pip install {name}"
        ) from error
