import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from llama_omni.data.units import UnitExtractor, fit_units, merge_repeats
from llama_omni.errors import CheckpointError, ConfigError, InputError, OutputError
from llama_omni.model.features_mfcc import MfccConfig, MfccFeatures
from llama_omni.model.units import KMeansUnits, reduce_units

GOLDEN = Path(__file__).parents[1] / "golden" / "hubert" / "kmeans.safetensors"


def sounds(number=6, seconds=1.0):
    """Notes and noise that change every 50 ms."""
    rng = np.random.default_rng(3)
    made = []
    for _ in range(number):
        pieces = []
        for _ in range(round(seconds * 20)):
            hz, level, hiss = rng.uniform(100, 3000), rng.uniform(0.05, 0.3), rng.uniform(0, 0.1)
            tone = level * np.sin(2 * np.pi * hz / 16000 * np.arange(800))
            pieces.append(tone + hiss * rng.normal(size=800))
        made.append(np.concatenate(pieces).astype(np.float32))
    return made


@pytest.fixture(scope="module")
def fit():
    return fit_units(sounds(), MfccFeatures(), num_units=12)


def test_fit_is_the_same_each_time_and_another_with_another_seed(fit):
    extractor, report = fit
    again, report_again = fit_units(sounds(), MfccFeatures(), num_units=12)
    other, _ = fit_units(sounds(), MfccFeatures(), num_units=12, seed=1)
    assert torch.equal(extractor.kmeans.centroids, again.kmeans.centroids)
    assert extractor.sha256 == again.sha256 != other.sha256
    assert report.inertia == report_again.inertia


def test_fit_reports_what_it_saw(fit):
    extractor, report = fit
    assert (report.num_sounds, report.num_frames, report.num_units) == (6, 300, 12)
    assert report.sound_s == 6.0
    assert 2 <= report.used_units <= 12
    assert 1 < report.perplexity <= report.used_units
    merged = sum(len(extractor.units(sound).units) for sound in sounds())
    assert report.merged_per_s == pytest.approx(merged / 6.0)


def test_fit_looks_at_no_more_sound_than_asked(fit):
    class Counting(list):
        read = 0

        def __getitem__(self, index):
            self.read += 1
            return super().__getitem__(index)

    counting = Counting(sounds(30))
    _, report = fit_units(counting, MfccFeatures(), num_units=4, sample_s=1.5)
    assert counting.read < 10  # 2, and what the type checker looks at
    assert (report.num_sounds, report.sound_s) == (2, 1.5)
    _, report = fit_units(iter(sounds()), MfccFeatures(), num_units=4, sample_s=2.0)
    assert (report.num_sounds, report.sound_s) == (2, 2.0)


def test_units_of_a_sound_are_within_k_and_repeat_to_its_frames(fit):
    extractor, _ = fit
    for sound in sounds(2):
        frames, units, durations = extractor.units(sound)
        assert frames.shape == (50,)
        assert frames.dtype == np.int64
        assert 0 <= frames.min() <= frames.max() < 12
        assert units.tolist() == reduce_units(frames.tolist())
        assert np.array_equal(np.repeat(units, durations), frames)


@given(st.lists(st.integers(0, 3)))
def test_merged_repeats_repeat_to_the_frames(frames):
    merged = merge_repeats(np.array(frames, np.int64))
    assert merged.units.tolist() == reduce_units(frames)
    assert np.repeat(merged.units, merged.durations).tolist() == frames


def test_no_sound_has_no_units(fit):
    frames, units, durations = fit[0].units(np.zeros(319, np.float32))
    assert len(frames) == len(units) == len(durations) == 0


def test_folder_of_units_gives_the_same_units(fit, tmp_path):
    extractor, report = fit
    extractor.save(tmp_path / "units", report)
    assert sorted(path.name for path in (tmp_path / "units").iterdir()) == [
        "features.json",
        "kmeans.npy",
    ]
    loaded = UnitExtractor.load(tmp_path / "units")
    for sound in sounds():
        assert np.array_equal(loaded.units(sound).frames, extractor.units(sound).frames)
    stored = json.loads((tmp_path / "units" / "features.json").read_text())
    assert stored["sha256"] == extractor.sha256 == loaded.sha256
    assert stored["fit"]["seed"] == 0
    assert (stored["num_units"], stored["dim"], stored["rate_hz"]) == (12, 26, 50)
    extractor.save(tmp_path / "units")  # over an old one
    assert UnitExtractor.load(tmp_path / "units").sha256 == extractor.sha256


def test_golden_centres_serve_with_features_of_their_width(tmp_path):
    tensors = load_file(GOLDEN)
    np.save(tmp_path / "kmeans.npy", tensors["centroids"].numpy())
    features = MfccFeatures(MfccConfig(num_coefficients=12))  # 24 wide, as they are
    extractor = UnitExtractor.load(tmp_path, features=features)
    assert torch.equal(extractor.kmeans.assign(tensors["features"]), tensors["labels"])
    with pytest.raises(CheckpointError, match="must say which features the centres are of"):
        UnitExtractor.load(tmp_path)
    with pytest.raises(ConfigError, match="features must be 24 wide as the centres, got 26"):
        UnitExtractor.load(tmp_path, features=MfccFeatures())


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "kmeans.npy").unlink(), "kmeans.npy must be a readable file"),
        (lambda folder: (folder / "features.json").unlink(), "must say which features"),
        (lambda folder: (folder / "features.json").write_text('{"form'), "readable JSON"),
        (lambda folder: (folder / "features.json").write_text("[]"), "format 1"),
        (lambda folder: (folder / "features.json").write_text('{"format": 1}'), "sha256"),
        (
            lambda folder: np.save(folder / "kmeans.npy", np.zeros((12, 26), np.float32)),
            "must be the centres of features.json, .* fit the units again",
        ),
        (
            lambda folder: (folder / "kmeans.npy").write_bytes(
                (folder / "kmeans.npy").read_bytes()[:900]
            ),
            r"whole \.npy",
        ),
    ],
    ids=["no centres", "no description", "half", "list", "bare", "other centres", "cut"],
)
def test_damaged_folder_is_refused(fit, tmp_path, damage, words):
    fit[0].save(tmp_path)
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=words):
        UnitExtractor.load(tmp_path)


def test_absent_folder_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="must be a folder of units, got no such folder"):
        UnitExtractor.load(tmp_path / "none")


def test_unwritable_place_is_refused(fit, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="must be a folder, got a file"):
        fit[0].save(tmp_path / "file" / "units")


@pytest.mark.parametrize(
    ("made", "options", "words"),
    [
        ([], {}, "got 40 for 0 in 0.0 s of sound"),
        (sounds(1, 0.5), {}, "got 40 for 25 in 0.5 s of sound; give more sound"),
        ([np.zeros(32_000, np.float32)], {}, "number of different frames, got 40 for"),
        ([np.full(3200, np.nan, np.float32)], {}, "sound 0 must hold finite samples"),
        (sounds(1), {"num_units": 1}, "num_units must be at least 2, got 1"),
        (sounds(1), {"sample_s": 0.0}, "sample_s must be above 0"),
    ],
    ids=["nothing", "short", "silence", "nan", "one unit", "no time"],
)
def test_impossible_fit_is_refused(made, options, words):
    with pytest.raises((ConfigError, InputError), match=words):
        fit_units(made, MfccFeatures(), **{"num_units": 40, **options})


def test_sound_with_nan_is_named(fit):
    with pytest.raises(InputError, match=r"a\.wav must hold finite samples"):
        fit[0].units(np.full(3200, np.inf, np.float32), name="a.wav")


def test_extractor_moves_between_devices(fit):
    moved = UnitExtractor(KMeansUnits(fit[0].kmeans.centroids), fit[0].features.to("cpu"))
    assert moved.num_units == 12
