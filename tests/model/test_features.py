import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_omni.errors import ConfigError, InputError
from llama_omni.model.features import UnitFeatures, features_from
from llama_omni.model.features_mfcc import MfccConfig, MfccFeatures


def noise(num_samples, seed=0):
    return 0.1 * torch.randn(num_samples, generator=torch.Generator().manual_seed(seed))


def fitted(deltas=1):
    features = MfccFeatures(MfccConfig(deltas=deltas))
    return features.fitted(features.extract(noise(32_000, seed=9)))[0]


@settings(deadline=None)
@given(st.integers(0, 3000))
def test_mfcc_gives_a_frame_for_each_whole_320_samples(num_samples):
    features = MfccFeatures()
    frames = features.extract(noise(num_samples))
    assert frames.shape == (num_samples // 320, 26)
    assert features.num_frames(num_samples) == num_samples // 320
    assert frames.isfinite().all()


@pytest.mark.parametrize(("deltas", "dim"), [(0, 13), (1, 26), (2, 39)])
def test_deltas_widen_the_frames(deltas, dim):
    features = MfccFeatures(MfccConfig(deltas=deltas))
    assert isinstance(features, UnitFeatures)
    assert features.rate_hz == 50
    assert features.dim == dim
    assert features.extract(noise(6400)).shape == (20, dim)


@settings(deadline=None)
@given(st.lists(st.integers(0, 2500), min_size=1, max_size=4))
def test_mfcc_of_a_batch_is_that_of_each_row_alone(lengths):
    features = fitted(deltas=2)
    rows = [noise(length, seed) for seed, length in enumerate(lengths)]
    batch = torch.full((len(rows), max(lengths) + 77), 0.5)  # what lies beyond must not matter
    for row, alone in zip(batch, rows, strict=True):
        row[: len(alone)] = alone
    frames, counts = features.extract_batch(batch, torch.tensor(lengths))
    assert counts.tolist() == [length // 320 for length in lengths]
    for row, count, alone in zip(frames, counts, rows, strict=True):
        torch.testing.assert_close(row[:count], features.extract(alone), atol=2e-4, rtol=1e-4)
        assert not row[count:].any()


def test_mfcc_frame_is_centred_on_the_samples_of_its_unit():
    click = torch.zeros(3200)
    click[5 * 320 : 6 * 320] = noise(320)
    loudness = MfccFeatures(MfccConfig(deltas=0)).extract(click)[:, 0]
    assert loudness.argmax() == 5
    torch.testing.assert_close(loudness[4], loudness[6], atol=4.0, rtol=0.0)
    assert torch.equal(loudness[1:4], loudness[7:])  # silence further off on both sides


def test_mfcc_of_silence_is_finite_and_louder_sound_moves_the_first_coefficient_only():
    features = MfccFeatures(MfccConfig(deltas=0))
    assert features.extract(torch.zeros(3200)).isfinite().all()
    soft, loud = features.extract(noise(3200)), features.extract(2 * noise(3200))
    torch.testing.assert_close(soft[:, 1:], loud[:, 1:], atol=2e-3, rtol=0.0)
    assert (loud[:, 0] > soft[:, 0] + 8).all()


def test_mfcc_matches_a_direct_computation():
    """The definition, frame by frame and in float64, without any of its parts."""
    sound = noise(1600).double()
    frames = MfccFeatures(MfccConfig(deltas=0)).extract(sound.float())
    emphasised = sound.clone()
    emphasised[1:] -= 0.97 * sound[:-1]
    padded = torch.nn.functional.pad(emphasised, (160, 160))
    window = torch.hann_window(640, periodic=False, dtype=torch.float64)
    bins = torch.arange(513) * 16000 / 1024
    mel = lambda hz: 2595 * torch.log10(1 + torch.as_tensor(hz) / 700)  # noqa: E731
    edges = 700 * (10 ** (torch.linspace(mel(40.0), mel(7600.0), 42) / 2595) - 1)
    for i in range(5):
        power = torch.fft.rfft(padded[320 * i :][:640] * window, 1024).abs() ** 2
        power = power / window.pow(2).sum()
        bands = []
        for low, middle, high in zip(edges, edges[1:], edges[2:], strict=False):
            up, down = (bins - low) / (middle - low), (high - bins) / (high - middle)
            triangle = torch.minimum(up, down).clamp(min=0)
            bands.append((power * triangle).sum() / triangle.sum())
        logs = torch.stack(bands).log()
        for order in range(13):
            angle = torch.pi / 40 * (torch.arange(40) + 0.5) * order
            expected = (logs * torch.cos(angle)).sum() * (2 / 40) ** 0.5
            expected *= 0.5**0.5 if order == 0 else 1
            assert float(frames[i, order]) == pytest.approx(float(expected), abs=1e-3)


def test_fitted_mfcc_has_mean_0_and_variance_1_and_survives_json():
    sound = noise(48_000)
    plain = MfccFeatures()
    features, normalised = plain.fitted(plain.extract(sound))
    frames = features.extract(sound)
    torch.testing.assert_close(frames, normalised, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(frames.mean(0), torch.zeros(26), atol=1e-4, rtol=0.0)
    torch.testing.assert_close(frames.std(0, correction=0), torch.ones(26), atol=1e-3, rtol=0.0)
    again = features_from(json.loads(json.dumps(features.describe())))
    assert torch.equal(again.extract(sound), frames)
    assert again.describe() == features.describe()
    twice, _ = features.fitted(frames)  # statistics of statistics
    torch.testing.assert_close(twice.extract(sound), frames, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"num_coefficients": 41}, "num_coefficients must be 1 to num_mels = 40, got 41"),
        ({"window": 300}, "window must be an even number of samples, at least 320, got 300"),
        ({"window": 641}, "window must be an even number"),
        ({"deltas": 3}, "deltas must be 0, 1 or 2, got 3"),
        ({"max_hz": 9000.0}, "min_hz < max_hz <= 8000, got 40.0 and 9000.0"),
    ],
)
def test_impossible_mfcc_is_refused(knobs, words):
    with pytest.raises(ConfigError, match=words):
        MfccConfig(**knobs)


@pytest.mark.parametrize(
    ("description", "words"),
    [
        ({"kind": "plp"}, "kind of features must be mfcc, hubert or encoder, got 'plp'"),
        ({}, "got None"),
        ({"kind": "mfcc", "hop": 3}, "hop"),
        ({"kind": "mfcc", "mean": [0.0]}, "mean must be 26 finite numbers"),
        ({"kind": "mfcc", "mean": "abc"}, "lists of numbers"),
        ({"kind": "mfcc", "std": [0.0] * 26}, "std must be above 0"),
        ({"kind": "mfcc", "num_mels": 300}, "num_mels must leave a frequency to each band"),
    ],
)
def test_impossible_description_is_refused(description, words):
    with pytest.raises(ConfigError, match=words):
        features_from(description)


def test_batch_with_impossible_lengths_is_refused():
    with pytest.raises(InputError, match="lengths must be 0 to 320 samples"):
        MfccFeatures().extract_batch(torch.zeros(1, 320), torch.tensor([321]))
