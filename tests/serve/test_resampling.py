import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st
from turn_tools import cut

from llama_omni.errors import ConfigError
from llama_omni.serve.resampling import HALF_WIDTH, LiveResampler


def tone(hz, rate, seconds=1.0):
    return np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate).astype(np.float32)


@pytest.mark.parametrize("rate", [8_000, 24_000, 44_100, 48_000])
@pytest.mark.parametrize("hz", [100, 1_000, 3_000])
def test_tone_keeps_its_place_and_its_level(rate, hz):
    out = LiveResampler(rate, 16_000).push(tone(hz, rate), final=True)
    assert len(out) == 16_000
    np.testing.assert_allclose(out[500:-500], tone(hz, 16_000)[500:-500], atol=2e-3)


@pytest.mark.parametrize("hz", [9_000, 10_000, 11_500])
def test_tone_above_the_band_is_gone(hz):
    out = LiveResampler(24_000, 16_000).push(tone(hz, 24_000), final=True)
    assert np.abs(out[500:-500]).max() < 1e-3


def test_speech_band_matches_soxr():
    rng = np.random.default_rng(0)
    slow = soxr.resample(rng.normal(0, 0.1, 13_000).astype(np.float32), 13_000, 24_000)
    ours = LiveResampler(24_000, 16_000).push(slow, final=True)
    theirs = soxr.resample(slow, 24_000, 16_000)
    np.testing.assert_allclose(ours[200:-200], theirs[200:-200], atol=3e-3)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 5_000), max_size=20), st.sampled_from([8_000, 24_000, 44_100]))
def test_any_split_gives_the_same_samples(places, rate):
    sound = np.random.default_rng(1).normal(0, 0.3, 5_000).astype(np.float32)
    stream = LiveResampler(rate, 16_000)
    pieces = [stream.push(piece) for piece in cut(sound, places)]
    pieces.append(stream.push(sound[:0], final=True))
    whole = LiveResampler(rate, 16_000).push(sound, final=True)
    assert len(whole) == round(5_000 * 16_000 / rate)
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1e-6)


@pytest.mark.parametrize("rate", [8_000, 24_000])
def test_delay_is_what_the_docstring_says(rate):
    stream, fed, given_out = LiveResampler(rate, 16_000), 0, 0
    for piece in np.split(tone(200, rate), 100):
        given_out += len(stream.push(piece))
        fed += len(piece)
        assert fed / rate - given_out / 16_000 <= (HALF_WIDTH + 3) / rate


def test_same_rate_passes_through():
    sound = tone(300, 16_000)
    assert LiveResampler(16_000, 16_000).push(sound) is sound


@pytest.mark.parametrize("rate", [0, 15_999])
def test_impossible_rate_is_refused(rate):
    with pytest.raises(ConfigError, match="sample_rate must be"):
        LiveResampler(rate, 16_000)
