import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from llama_omni.errors import ConfigError
from llama_omni.train.augment import Augmenter, AugmentSettings

NOTHING = AugmentSettings(
    silence_s=0.0, speed=0.0, equaliser_db=0.0, reverb_share=0.0, noise_share=0.0,
    telephone_share=0.0, clip_share=0.0, level_db=(-6.0, -6.0), warp_share=0.0, bend=0.0,
    rhythm=0.0, time_masks=0, mel_masks=0,
)  # fmt: skip
RATE = 16000


def tone(hz, seconds=1.0):
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(int(seconds * RATE)) / RATE)).astype(np.float32)


def only(**changes):
    return Augmenter(replace(NOTHING, **changes), seed=0)


def loudest_hz(sound):
    return np.abs(np.fft.rfft(sound)).argmax() * RATE / len(sound)


def test_same_numbers_give_the_same_sound():
    augmenter, sound = Augmenter(AugmentSettings(), seed=3), tone(440)
    other = lambda number: tone(100 + number % 1000, 0.5)  # noqa: E731
    for index in range(20):
        first = augmenter.waveform(sound, draw=1, index=index, other=other)
        again = Augmenter(AugmentSettings(), seed=3)
        assert np.array_equal(first, again.waveform(sound, draw=1, index=index, other=other))


def test_any_other_number_gives_another_sound():
    sound = tone(440)
    first = Augmenter(AugmentSettings(), seed=0).waveform(sound, draw=0, index=0)
    for seed, draw, index in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
        found = Augmenter(AugmentSettings(), seed=seed).waveform(sound, draw=draw, index=index)
        assert len(found) != len(first) or not np.array_equal(found, first)


@pytest.mark.parametrize("size", [1, 2, 399, 16000, 40001])
def test_sound_stays_mono_finite_and_within_full_scale(size):
    augmenter = Augmenter(AugmentSettings(), seed=0)
    rng = np.random.default_rng(0)
    sound = rng.standard_normal(size).astype(np.float32) * 0.1
    for index in range(30):
        found = augmenter.waveform(sound, draw=0, index=index, other=lambda _: sound)
        assert found.dtype == np.float32
        assert found.ndim == 1
        assert np.isfinite(found).all()
        assert np.abs(found).max() <= 10 ** (-1 / 20) + 1e-6
        assert 0.89 * size - 2 <= len(found) <= (size + RATE) / 0.89 + 2


def test_silence_stays_finite():
    found = Augmenter(AugmentSettings(), seed=0).waveform(
        np.zeros(8000, np.float32), draw=0, index=0
    )
    assert np.isfinite(found).all()


def test_nothing_changes_but_the_level_when_all_is_off():
    sound = tone(440)
    found = only().waveform(sound, draw=0, index=0)
    np.testing.assert_allclose(found, sound * (10 ** (-6 / 20) / 0.3), atol=1e-3)


def test_no_strength_changes_nothing():
    augmenter, sound = Augmenter(AugmentSettings(), seed=0), tone(440)
    mel = torch.randn(2, 80, 50)
    assert augmenter.waveform(sound, draw=0, index=0, strength=0.0) is sound
    lengths = torch.tensor([50, 40])
    found = augmenter.mel(mel, lengths, draw=0, indices=[0, 1], strength=0.0)
    assert torch.equal(found, mel)


def test_speed_moves_pitch_and_length_together():
    sound, ratios = tone(1000), []
    for index in range(20):
        found = only(speed=0.1).waveform(sound, draw=0, index=index)
        ratios.append(len(found) / len(sound))
        assert loudest_hz(found) == pytest.approx(1000 / ratios[-1], rel=0.01)
    assert min(ratios) < 0.95
    assert max(ratios) > 1.05


def test_noise_has_the_chosen_level():
    rng = np.random.default_rng(0)
    sound = rng.standard_normal(RATE).astype(np.float32) * 0.1
    found = only(noise_share=1.0, noise_db=(10.0, 10.0)).waveform(sound, draw=0, index=0)
    scale = float(found @ sound) / float(sound @ sound)
    rest = found - scale * sound
    ratio_db = 10 * np.log10((scale * sound @ (scale * sound)) / (rest @ rest))
    assert ratio_db == pytest.approx(10.0, abs=0.5)


def test_telephone_keeps_its_band_alone():
    sounds = {hz: only(telephone_share=1.0) for hz in (100, 1000, 7000)}
    mixed = tone(100) + tone(1000) + tone(7000)
    found = np.abs(np.fft.rfft(sounds[100].waveform(mixed, draw=0, index=0)))
    place = {hz: found[int(hz * len(found) * 2 / RATE) - 3 :][:7].max() for hz in sounds}
    assert place[1000] > 30 * place[100]
    assert place[1000] > 30 * place[7000]


def test_room_goes_on_after_the_sound():
    sound = np.concatenate([tone(440, 0.3), np.zeros(RATE // 2, np.float32)])
    settings = {"reverb_share": 1.0, "reverb_s": (0.5, 0.5), "reverb_db": (0.0, 0.0)}
    found = only(**settings).waveform(sound, draw=0, index=0)
    tail = found[int(0.33 * RATE) : int(0.4 * RATE)]
    late = found[int(0.7 * RATE) :]
    assert np.abs(tail).max() > 10 * np.abs(late).max() > 0.0


def test_warp_of_nothing_is_the_same_mel():
    mel = torch.randn(3, 80, 40)
    lengths = torch.tensor([40, 30, 20])
    found = only(warp_share=1.0, warp=0.0).mel(mel, lengths, draw=0, indices=range(3))
    torch.testing.assert_close(found, mel, atol=0.0, rtol=0.0)


def test_warp_moves_a_peak_by_its_share():
    mel = torch.zeros(40, 80, 5)
    mel[:, 40] = 1.0
    found = only(warp_share=1.0).mel(mel, torch.full((40,), 5), draw=0, indices=range(40))
    peaks = found[:, :, 0].argmax(dim=1)
    assert (peaks - 40).abs().max() <= 8
    assert peaks.min() < 37
    assert peaks.max() > 43


@pytest.mark.parametrize("axis", ["bend", "rhythm"])
def test_moved_places_stay_in_order_and_near(axis):
    ramp = torch.arange(80).float()
    mel = ramp[:, None].expand(80, 80) if axis == "bend" else ramp.expand(80, 80)
    found = only(warp_share=1.0, warp=0.0, **{axis: 4.0}).mel(
        mel.expand(20, 80, 80), torch.full((20,), 80), draw=0, indices=range(20)
    )
    along = found[:, :, 40] if axis == "bend" else found[:, 40]  # (20, 80)
    assert (along.diff(dim=1) >= 0).all()
    assert 2.0 < (along - ramp).abs().max() <= 4.0
    assert len({tuple(row.tolist()) for row in along}) == 20


@pytest.mark.parametrize(
    ("changes", "channels", "frames"),
    [({"warp": 0.5, "bend": 4.0}, 80, 40), ({"bend": 2.0}, 32, 40), ({"rhythm": 12.5}, 80, 12)],
)
def test_no_sound_runs_backwards_however_far_it_may_move(changes, channels, frames):
    augment = only(warp_share=1.0, **({"warp": 0.0} | changes))
    ramp = torch.arange(channels).float()[:, None] + torch.arange(frames).float()
    found = augment.mel(
        ramp.expand(200, -1, -1), torch.full((200,), frames), draw=0, indices=range(200)
    )
    for axis in (1, 2):
        assert (found.diff(dim=axis) >= -1e-3).all()


def test_another_rhythm_leaves_the_padding_alone():
    mel = torch.randn(6, 80, 120)
    lengths = torch.tensor([120, 100, 60, 30, 10, 1])
    found = only(warp_share=1.0, warp=0.0, rhythm=4.0).mel(mel, lengths, draw=0, indices=range(6))
    for row, length in enumerate(lengths.tolist()):
        assert torch.equal(found[row, :, length:], mel[row, :, length:])
        inside = mel[row, :, :length]
        assert found[row, :, :length].max() <= inside.max()
        assert found[row, :, :length].min() >= inside.min()


def test_masks_hide_stretches_within_the_row():
    mel = torch.randn(8, 80, 300)
    lengths = torch.full((8,), 200)
    found = only(time_masks=1, time_mask_frames=20).mel(mel, lengths, draw=0, indices=range(8))
    hidden = (found != mel).all(dim=1)  # (8, 300)
    assert not hidden[:, 200:].any()
    assert hidden.sum(dim=1).max() <= 20
    assert hidden.any()


def test_rows_of_mel_do_not_depend_on_each_other():
    augmenter, mel = Augmenter(AugmentSettings(), seed=0), torch.randn(4, 80, 60)
    lengths = torch.full((4,), 60)
    together = augmenter.mel(mel, lengths, draw=0, indices=range(4))
    alone = augmenter.mel(mel[2:3], lengths[2:3], draw=0, indices=[2])
    torch.testing.assert_close(together[2:3], alone)


def test_an_utterance_costs_milliseconds():
    augmenter, sound = Augmenter(AugmentSettings(), seed=0), tone(440, 2.5)
    before = time.process_time()
    for index in range(50):
        augmenter.waveform(sound, draw=0, index=index, other=lambda _: sound)
    assert (time.process_time() - before) / 50 < 0.02  # 3 ms on an idle core


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"noise_share": 1.5}, "augment.noise_share must be 0 to 1, got 1.5"),
        ({"speed": 0.9}, "augment.speed must be 0 to 0.5, got 0.9"),
        ({"bend": 5.0}, "augment.bend must be 0 to 4, got 5.0"),
        ({"rhythm": -1.0}, "augment.rhythm must be 0 to 12.5, got -1.0"),
        ({"noise_db": (3.0, 1.0)}, "augment.noise_db must be"),
        ({"silence_s": -1.0}, "augment.silence_s must be 0 or more"),
        ({"reverb_s": (0.0, 1.0)}, "augment.reverb_s must be above 0"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        AugmentSettings(**changes)
