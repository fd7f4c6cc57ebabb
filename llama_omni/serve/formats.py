"""The wire's sound formats: 16 bit PCM at 24 kHz, G.711 mu-law and A-law at 8 kHz, in base64."""

import base64
import binascii
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from llama_omni.audio import SAMPLE_RATE, pcm16, pcm16_decode, pcm16_encode
from llama_omni.interfaces import Audio
from llama_omni.serve.errors import ProtocolError, shorten
from llama_omni.serve.resampling import LiveResampler

FormatName = Literal["audio/pcm", "audio/pcmu", "audio/pcma"]

_MU_BIAS, _MU_CLIP = 33, 8_159  # G.711, on its scale of 14 bit


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """One of the three formats."""

    name: FormatName = "audio/pcm"

    @property
    def sample_rate(self) -> int:
        """Samples per second."""
        return 24_000 if self.name == "audio/pcm" else 8_000

    @property
    def event(self) -> dict[str, Any]:
        """As the protocol writes it."""
        rate = {"rate": self.sample_rate} if self.name == "audio/pcm" else {}
        return {"type": self.name, **rate}

    def encode(self, samples: Audio) -> str:
        """Return (S,) samples at this format's rate in base64."""
        if self.name == "audio/pcm":
            data = pcm16_encode(samples)
        else:
            linear = pcm16(samples)
            data = (_to_mulaw(linear) if self.name == "audio/pcmu" else _to_alaw(linear)).tobytes()
        return base64.b64encode(data).decode("ascii")

    def decode(self, text: str, *, param: str, max_s: float) -> Audio:
        """Read base64 as (S,) samples at this format's rate.

        Raises:
            ProtocolError: it is not base64, not whole samples, or longer than `max_s` seconds.
        """
        width = 2 if self.name == "audio/pcm" else 1
        most = int(max_s * self.sample_rate) * width
        if len(text) > 4 * (most // 3 + 1):
            raise ProtocolError(
                f"{param} must be at most {max_s:g} s of sound ({most} bytes), "
                f"got {len(text)} letters of base64",
                code="audio_too_long",
                param=param,
            )
        try:
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ProtocolError(
                f"{param} must be base64, got {shorten(text)}: {error}",
                code="invalid_base64",
                param=param,
            ) from error
        if len(data) % width:
            raise ProtocolError(
                f"{param} must be 16 bit PCM, an even number of bytes, got {len(data)}",
                code="invalid_audio",
                param=param,
            )
        if width == 2:
            return pcm16_decode(data)
        table = _mulaw_table() if self.name == "audio/pcmu" else _alaw_table()
        return table[np.frombuffer(data, np.uint8)]


def to_model_rate(samples: Audio, sample_rate: int) -> Audio:
    """Bring a whole sound to the rate that models listen at."""
    return LiveResampler(sample_rate, SAMPLE_RATE).push(samples, final=True)


def from_model_rate(samples: Audio, sample_rate: int) -> Audio:
    """Bring a whole sound at the models' rate to another."""
    return LiveResampler(SAMPLE_RATE, sample_rate).push(samples, final=True)


def _to_mulaw(linear: NDArray[np.int16]) -> NDArray[np.uint8]:
    value = linear.astype(np.int32) >> 2  # 14 bit
    sign = np.where(value < 0, 0x80, 0)
    size = np.minimum(np.abs(value) + _MU_BIAS, _MU_CLIP)
    exponent = np.floor(np.log2(size)).astype(np.int32) - 5
    mantissa = (size >> (exponent + 1)) & 0x0F
    return (~(sign | exponent << 4 | mantissa) & 0xFF).astype(np.uint8)


def _to_alaw(linear: NDArray[np.int16]) -> NDArray[np.uint8]:
    value = linear.astype(np.int32) >> 3  # 13 bit
    mask = np.where(value >= 0, 0xD5, 0x55)
    size = np.where(value >= 0, value, -value - 1)
    segment = np.maximum(np.floor(np.log2(np.maximum(size, 1))).astype(np.int32) - 4, 0)
    mantissa = (size >> np.maximum(segment, 1)) & 0x0F
    return ((segment << 4 | mantissa) ^ mask).astype(np.uint8)


@cache
def _mulaw_table() -> Audio:
    code = ~np.arange(256) & 0xFF
    size = ((((code & 0x0F) << 1) + _MU_BIAS << ((code & 0x70) >> 4)) - _MU_BIAS) << 2
    return (np.where(code & 0x80, -size, size) / 32_768).astype(np.float32)


@cache
def _alaw_table() -> Audio:
    code = np.arange(256) ^ 0x55
    segment, mantissa = (code & 0x70) >> 4, (code & 0x0F) << 4
    size = np.where(segment == 0, mantissa + 8, (mantissa + 0x108) << np.maximum(segment - 1, 0))
    return (np.where(code & 0x80, size, -size) / 32_768).astype(np.float32)
