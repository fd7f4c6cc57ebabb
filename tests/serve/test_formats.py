"""The wire's sound: base64, 16 bit PCM and G.711, checked against the standard's own numbers."""

import base64
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_omni.serve.errors import ProtocolError
from llama_omni.serve.formats import AudioFormat, from_model_rate, to_model_rate

G711 = ("audio/pcmu", "audio/pcma")


def encode(name, values):
    samples = np.asarray(values, np.float32) / 32_768
    return base64.b64decode(AudioFormat(name).encode(samples))


def decode(name, data, max_s=100.0):
    text = base64.b64encode(data).decode()
    return AudioFormat(name).decode(text, param="audio", max_s=max_s)


@given(st.lists(st.integers(-32_768, 32_767), max_size=50))
def test_pcm_comes_back_exactly(values):
    back = decode("audio/pcm", encode("audio/pcm", values))
    np.testing.assert_array_equal(back * 32_768, values)


@pytest.mark.parametrize("name", G711)
def test_every_g711_code_comes_back(name):
    codes = bytes(range(256))
    back = encode(name, decode(name, codes) * 32_768)
    same = np.frombuffer(back, np.uint8) == np.arange(256)
    assert same.sum() >= 255, "mu-law alone has a second zero"


@pytest.mark.parametrize(
    ("name", "silence", "loudest"), [("audio/pcmu", 0xFF, 32_124), ("audio/pcma", 0xD5, 32_256)]
)
def test_g711_has_the_standards_ends(name, silence, loudest):
    assert encode(name, [0]) == bytes([silence])
    ends = decode(name, encode(name, [32_767, -32_768])) * 32_768
    np.testing.assert_array_equal(ends, [loudest, -loudest])


@pytest.mark.parametrize("name", G711)
def test_g711_matches_pythons_own(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        audioop = pytest.importorskip("audioop", reason="left Python with 3.13")
    to, back = {
        "audio/pcmu": (audioop.lin2ulaw, audioop.ulaw2lin),
        "audio/pcma": (audioop.lin2alaw, audioop.alaw2lin),
    }[name]
    values = np.arange(-32_768, 32_768).astype("<i2")
    assert encode(name, values) == to(values.tobytes(), 2)
    linear = np.frombuffer(back(bytes(range(256)), 2), "<i2")
    np.testing.assert_array_equal(decode(name, bytes(range(256))) * 32_768, linear)


def test_sound_beyond_full_scale_is_clipped():
    assert np.frombuffer(encode("audio/pcm", [40_000, -40_000]), "<i2").tolist() == [
        32_767,
        -32_768,
    ]


def test_length_is_bounded_before_it_is_decoded():
    assert len(decode("audio/pcm", bytes(48_000), max_s=1.0)) == 24_000
    with pytest.raises(ProtocolError, match="at most 1 s of sound"):
        decode("audio/pcm", bytes(48_010), max_s=1.0)


@pytest.mark.parametrize("rate", [8_000, 24_000])
def test_rate_of_a_whole_sound_changes_there_and_back(rate):
    time = np.arange(rate) / rate
    tone = (0.5 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    heard = to_model_rate(tone, rate)
    assert len(heard) == 16_000
    back = from_model_rate(heard, rate)
    assert len(back) == rate
    assert np.abs(back - tone)[rate // 10 : -rate // 10].max() < 0.01
