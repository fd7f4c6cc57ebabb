"""Sound as Ogg Opus, a tenth of FLAC's size, for machines that little can be carried to."""

import io

import numpy as np
import soundfile
from numpy.typing import NDArray

from llama_omni.audio import SAMPLE_RATE

_HEADER = 27  # bytes of an Ogg page before its table of segments


def encode_opus(samples: NDArray[np.float32], level: float) -> bytes:
    """Return (S,) samples at 16 kHz as Ogg Opus that gives S samples back.

    Args:
        samples: within [-1, 1]; S must be above 0.
        level: libsndfile's compression, 0 to 1, the last being the smallest.
    """
    sink = io.BytesIO()
    options = {"format": "OGG", "subtype": "OPUS", "compression_level": level}
    soundfile.write(sink, samples, SAMPLE_RATE, **options)
    return _without_padding(sink.getvalue())


def _without_padding(data: bytes) -> bytes:
    """Cut the room for later comments, a fifth of a short question; other data stays as it is.

    Source:
        RFC 3533, section 6 (pages); RFC 7845, section 5.2 (the comments of Opus).
    """
    start = _HEADER + data[26] + sum(data[_HEADER : _HEADER + data[26]])  # of the second page
    table = data[start + _HEADER : start + _HEADER + data[start + 26]]
    body = start + _HEADER + len(table)
    if data[body : body + 8] != b"OpusTags":
        return data
    vendor = int.from_bytes(data[body + 8 : body + 12], "little")
    size = 12 + vendor + 4
    if size > 254 or any(data[body + size - 4 : body + size]):  # it has comments
        return data
    page = bytearray(data[start : start + 26] + bytes([1, size]) + data[body : body + size])
    page[22:26] = bytes(4)
    page[22:26] = _checksum(page).to_bytes(4, "little")
    return data[:start] + page + data[body + sum(table) :]


def _checksum(page: bytes | bytearray) -> int:
    """Return Ogg's CRC-32: high bits first, begun with 0, unlike zlib's."""
    value = 0
    for byte in page:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1) ^ (0x104C11DB7 if value & 0x80000000 else 0)
    return value
