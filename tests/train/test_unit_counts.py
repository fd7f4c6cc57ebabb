import hashlib

import pytest

from llama_omni.data.shards import FORMAT, write_manifest
from llama_omni.errors import ConfigError
from llama_omni.train.unit_counts import check_centres, check_units, num_units_of


def dataset(folder, units):
    folder.mkdir()
    write_manifest(folder, {"format": FORMAT, "shards": [], "units": units})
    return folder


def test_data_set_tells_its_number_of_units(tmp_path):
    assert num_units_of(dataset(tmp_path / "set", {"K": 20})) == 20
    assert num_units_of(dataset(tmp_path / "silent", None)) is None


@pytest.mark.parametrize(("vocoder", "data"), [(7, 7), (None, 7), (7, None), (None, None)])
def test_same_numbers_of_units_are_taken(vocoder, data):
    check_units(7, vocoder, data)


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        ((7, 8, 7), "7 of the model, 8 of the vocoder, 7 of the data set"),
        ((7, None, 8), "7 of the model, none of the vocoder, 8 of the data set"),
    ],
)
def test_other_numbers_of_units_are_refused_by_name(counts, told):
    with pytest.raises(ConfigError, match=f"num_units must be the same in .*, got {told}"):
        check_units(*counts)


def test_centres_of_another_data_set_are_refused(tmp_path):
    (tmp_path / "kmeans.npy").write_bytes(b"centres")
    ours = hashlib.sha256(b"centres").hexdigest()
    check_centres(tmp_path, dataset(tmp_path / "same", {"K": 7, "kmeans_sha256": ours}))
    check_centres(tmp_path, dataset(tmp_path / "silent", {"K": 7}))
    other = dataset(tmp_path / "other", {"K": 7, "kmeans_sha256": "0" * 64})
    check_centres(tmp_path / "none", other)
    with pytest.raises(ConfigError, match=r"kmeans\.npy must be the centres of the units of"):
        check_centres(tmp_path, other)
