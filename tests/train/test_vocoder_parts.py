"""What vocoder training is made of: segments, distances, discriminators, settings."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from llama_omni.errors import ConfigError, InputError, TargetError
from llama_omni.model.vocoder import UnitVocoder
from llama_omni.train import vocoder_losses as losses
from llama_omni.train.discriminators import Discriminators
from llama_omni.train.vocoder_settings import VocoderSettings, hifigan_settings
from tests.train.vocoder_runs import LIGHT, segments_of, spoken_row, write_set, write_voice


@pytest.fixture(scope="module")
def voice(tmp_path_factory):
    return write_voice(tmp_path_factory.mktemp("voice"))


def test_segments_hang_on_seed_step_and_part_alone(voice):
    first, again = segments_of(voice), segments_of(voice)
    one, two = first.batch(4, 10, step=5, part=0), again.batch(4, 10, step=5, part=0)
    assert one.ids == two.ids
    assert torch.equal(one.sound, two.sound)
    assert torch.equal(one.frames, two.frames)
    others = [first.batch(4, 10, step=6, part=0), first.batch(4, 10, step=5, part=1)]
    assert all(not torch.equal(one.sound, other.sound) for other in others)
    held = {first.ids[place] for place in first.held_out}
    drawn = {name for step in range(50) for name in first.batch(4, 10, step=step, part=0).ids}
    assert len(held) == 2
    assert drawn == set(first.ids) - held
    assert len(first.ids) == 12  # those without units or sound are left out


def test_units_and_sound_of_a_segment_belong_together(voice):
    segments = segments_of(voice)
    batch = segments.batch(8, 4, step=0, part=0)
    for row in range(8):
        tones = batch.sound[row].reshape(4, 320)
        loudest = torch.fft.rfft(tones * torch.hann_window(320)).abs().argmax(dim=1)  # 50 Hz bins
        assert loudest.tolist() == (3 * (1 + batch.frames[row])).tolist()


def test_short_answers_are_filled_with_silence(tmp_path):
    rows = [spoken_row(number, frames=1 + 2 * (number == 0)) for number in range(4)]
    segments = segments_of(write_set(tmp_path, rows))
    batch = segments.batch(6, 15, step=0, part=0)
    assert batch.lengths is not None
    for row, length in enumerate(batch.lengths.tolist()):
        assert length == (15 if batch.ids[row] == "row-0" else 6)
        assert not batch.sound[row, length * 320 :].any()
    vocoder = UnitVocoder(LIGHT)
    assert vocoder.generate(batch.frames, batch.lengths).shape == batch.sound.shape


def test_set_of_the_same_size_is_not_taken_for_the_one_in_the_cache(tmp_path):
    sets = []
    for place, first in (("one", 0), ("two", 1)):
        sound = replace(spoken_row(3, frames=4), units=[first, 1 - first], durations=[12, 12])
        sets.append(write_set(tmp_path / place, [sound, replace(sound, id="other")]))
    sizes = {(folder / "data/train-00000.parquet").stat().st_size for folder in sets}
    assert len(sizes) == 1
    found = [segments_of(folder, tmp_path / "cache").spoken(0).units.tolist() for folder in sets]
    assert found == [[0, 1], [1, 0]]


def test_too_few_answers_are_refused_with_the_hours_that_were_read(voice, tmp_path):
    with pytest.raises(InputError, match=r"at least 2 answers .*, got 0 within max_hours=1e-06"):
        segments_of(voice, tmp_path, max_hours=1e-6)


def test_no_more_hours_than_asked(voice, tmp_path):
    few = segments_of(voice, tmp_path / "few", max_hours=3 / 3600)
    again = segments_of(voice, tmp_path / "few", max_hours=3 / 3600)
    assert 2 <= len(few.ids) < 12
    assert few.ids == again.ids
    assert len(segments_of(voice, tmp_path / "few").ids) == 12  # another choice unpacks anew


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ([spoken_row(0, units=None)], InputError, "must hold at least 2 answers with sound and u"),
        (
            [spoken_row(0), spoken_row(1, units=[1, 3, 2], durations=[1, 1, 1])],
            TargetError,
            "'row-1' must have units for its whole sound, got 0.06 s of",
        ),
        (
            [spoken_row(0, units=[0, 1, 2, 3, 4, 6]), spoken_row(1)],
            TargetError,
            "units of 'row-0' must be below 6, got 6; set the vocoder's num_units",
        ),
        (
            [spoken_row(0, frames=4, durations=[4, 4, 4, 4, 4, 4, 0]), spoken_row(1)],
            TargetError,
            "'row-0' must have a duration of at least 1 for each unit",
        ),
    ],
    ids=["no-units", "units-too-short", "unit-too-large", "durations-not-one-a-unit"],
)
def test_answers_that_cannot_be_learnt_are_named(tmp_path, rows, error, message):
    with pytest.raises(error, match=message):
        segments_of(write_set(tmp_path, rows))


def test_discriminators_are_the_papers():
    with torch.device("meta"):
        judges = Discriminators()
    # HiFi-GAN's code: 41.1 M by period, 29.6 M by scale (weight norm's sizes counted).
    assert sum(p.numel() for p in judges.by_period.parameters()) == pytest.approx(41.1e6, rel=0.01)
    assert sum(p.numel() for p in judges.by_scale.parameters()) == pytest.approx(29.6e6, rel=0.01)
    found = Discriminators(divisor=16)(torch.randn(2, 3001))
    assert len(found) == 8
    assert [len(features) for _, features in found] == [6] * 5 + [8] * 3


def test_losses_are_zero_for_the_same_sound_and_grow_with_the_difference():
    real = 0.1 * torch.randn(2, 8000)
    mel = losses.MelDistance(16_000)
    near, far = real + 0.01 * torch.randn(2, 8000), real + 0.1 * torch.randn(2, 8000)
    for distance in (mel, losses.stft_distance):
        assert distance(real, real) == 0
        assert 0 < distance(near, real) < distance(far, real)
    assert mel(0.5 * real, real) == pytest.approx(np.log(2), rel=1e-3)


def test_duration_loss_sees_real_unitsalone():
    durations = torch.tensor([[3, 1, 0], [2, 2, 2]])
    exact = durations.float().log1p()
    exact[0, 2] = 99.0
    assert losses.duration_distance(exact, durations, durations > 0) == 0


def test_silence_gives_finite_gradients():
    made = torch.zeros(1, 4000, requires_grad=True)
    real = torch.zeros(1, 4000)
    (losses.MelDistance(16_000)(made, real) + losses.stft_distance(made, real)).backward()
    assert made.grad.isfinite().all()


def test_rate_warms_up_then_falls():
    cosine = VocoderSettings(max_steps=100, learning_rate=1.0, warmup_ratio=0.1)
    rates = [cosine.rate(step, 0) for step in range(100)]
    assert rates[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert max(rates) == rates[9] == 1.0
    assert rates[-1] < 0.001
    paper = hifigan_settings()
    assert paper.rate(10_000, 100) == pytest.approx(2e-4 * 0.999**100)
    assert (paper.mel_weight, paper.feature_weight, paper.beta1) == (45.0, 2.0, 0.8)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_steps": 0}, "max_steps must be above 0, got 0"),
        ({"mel_weight": -1.0}, "mel_weight must be at least 0, got -1.0"),
        ({"beta1": 1.0}, r"beta1 must be in \[0, 1\), got 1.0"),
        ({"decay": 0.0}, r"decay must be in \(0, 1\], got 0.0"),
        ({"adversarial_from": -1}, "adversarial_from must be at least 0, got -1"),
        ({"discriminator_divisor": 3}, "discriminator_divisor must be 1, 2, 4, 8, 16 or 32, got 3"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0, got nan"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_impossible_settings_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        VocoderSettings(**fields)
