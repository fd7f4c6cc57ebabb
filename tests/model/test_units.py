import pickle
from itertools import pairwise
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from sklearn.cluster import MiniBatchKMeans

from llama_omni.errors import CheckpointError, InputError
from llama_omni.model.units import KMeansUnits, read_centroids, reduce_units

GOLDEN = Path(__file__).parents[1] / "golden" / "hubert" / "kmeans.safetensors"


@pytest.fixture(scope="module")
def tensors():
    return load_file(GOLDEN)


@pytest.mark.parametrize("batch_size", [7, 8192], ids=["small batches", "one batch"])
def test_units_match_reference(tensors, batch_size):
    units = KMeansUnits(tensors["centroids"], batch_size=batch_size)
    labels = units.assign(tensors["features"])
    assert torch.equal(labels, tensors["labels"])
    assert reduce_units(labels.tolist()) == tensors["reduced"].tolist()


def test_assign_keeps_batch_dimensions_and_takes_half_precision(tensors):
    units = KMeansUnits(tensors["centroids"])
    batched = tensors["features"].view(4, 50, -1)
    assert torch.equal(units.assign(batched), tensors["labels"].view(4, 50))
    assert units.assign(tensors["centroids"].bfloat16()).tolist() == list(range(100))
    assert units.num_units == 100


def test_assign_of_nothing_is_nothing(tensors):
    assert KMeansUnits(tensors["centroids"]).assign(torch.zeros(0, 24)).shape == (0,)


def test_assign_refuses_another_width(tensors):
    with pytest.raises(InputError, match="24 wide as the centres, got 23"):
        KMeansUnits(tensors["centroids"]).assign(torch.zeros(2, 23))


@given(st.lists(st.integers(0, 3)))
def test_reduced_units_have_no_adjacent_repeats_and_lose_nothing_else(units):
    reduced = reduce_units(units)
    assert all(a != b for a, b in pairwise(reduced))
    assert reduced == [unit for i, unit in enumerate(units) if i == 0 or unit != units[i - 1]]


def test_centres_come_from_npy_without_trust(tensors, tmp_path):
    np.save(tmp_path / "kmeans.npy", tensors["centroids"].double().numpy())
    units = KMeansUnits.from_file(tmp_path / "kmeans.npy")
    assert torch.equal(units.centroids, tensors["centroids"])


def test_pickled_kmeans_needs_trust_and_says_what_it_risks(tmp_path):
    features = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    model = MiniBatchKMeans(n_clusters=4, n_init=1, random_state=0).fit(features)
    joblib.dump(model, tmp_path / "km.bin")
    with pytest.raises(CheckpointError, match=r"run any program .* --trust-pickle"):
        read_centroids(tmp_path / "km.bin")
    centroids = read_centroids(tmp_path / "km.bin", trust_pickle=True)
    assert np.array_equal(centroids, model.cluster_centers_.astype(np.float32))
    assert np.array_equal(KMeansUnits(torch.from_numpy(centroids)).assign(
        torch.from_numpy(features)).numpy(), model.predict(features))  # fmt: skip


def test_untrusted_pickle_runs_nothing(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    (tmp_path / "km.bin").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(CheckpointError, match="probably a pickle"):
        read_centroids(tmp_path / "km.bin")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((2, 3, 4), np.float32), r"\(K, D\) floats, got shape \(2, 3, 4\)"),
        (np.zeros((2, 3), np.int64), "floats, got shape .* of int64"),
        (np.zeros((0, 3), np.float32), "floats, got shape"),
        (np.full((2, 3), np.nan, np.float32), "finite"),
    ],
    ids=["three dimensions", "integers", "empty", "nan"],
)
def test_impossible_centres_are_refused(array, words, tmp_path):
    np.save(tmp_path / "kmeans.npy", array)
    with pytest.raises(CheckpointError, match=words):
        read_centroids(tmp_path / "kmeans.npy")


def test_damaged_files_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="No such file"):
        read_centroids(tmp_path / "none.npy")
    np.save(tmp_path / "kmeans.npy", np.zeros((100, 30), np.float32))
    whole = (tmp_path / "kmeans.npy").read_bytes()
    (tmp_path / "kmeans.npy").write_bytes(whole[:1000])
    with pytest.raises(CheckpointError, match=r"whole \.npy"):
        read_centroids(tmp_path / "kmeans.npy")
    (tmp_path / "km.bin").write_bytes(b"no pickle")
    with pytest.raises(CheckpointError, match="readable pickle"):
        read_centroids(tmp_path / "km.bin", trust_pickle=True)
    joblib.dump({"a": 1}, tmp_path / "km.bin")
    with pytest.raises(CheckpointError, match="cluster_centers_, got dict"):
        read_centroids(tmp_path / "km.bin", trust_pickle=True)
