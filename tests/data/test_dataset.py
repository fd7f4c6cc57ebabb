"""Shards and the Dataset that reads them."""

import errno
import io
import os
import pickle
import threading

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from torch.utils.data import DataLoader

from llama_omni.data import dataset as dataset_module
from llama_omni.data.dataset import SpeechDataset
from llama_omni.data.shards import check_shard, read_manifest, read_shards, write_shard
from llama_omni.errors import ConfigError, InputError, OutputError
from tests.data.data_tools import make_dataset, make_row, tone


@pytest.fixture
def folder(tmp_path):
    rows = [make_row(i, history=i % 3 == 0) for i in range(250)]
    make_dataset(
        tmp_path,
        {"train": [rows[:130], rows[130:]], "test": [[make_row(900, "test", spoken=False)]]},
    )
    return tmp_path


def ids_of(items):
    return [item.id for item in items]


def test_dataset_returns_what_was_written(folder):
    data = SpeechDataset(folder)
    assert len(data) == 250
    for i in (0, 99, 100, 129, 130, 249, -1):
        row, item = make_row(i % 250, history=i % 250 % 3 == 0), data[i]
        assert (item.id, item.intent, item.voice) == (row.id, row.intent, "fake:a")
        assert (item.question, item.answer) == (row.question, row.answer)
        expected = tone(row.question, row.question_s)
        np.testing.assert_allclose(item.audio, expected, atol=1 / 32768)
        assert item.audio.dtype == np.float32
        assert item.answer_audio is not None
        assert item.units.tolist() == row.units
        assert item.durations.dtype == np.int64
        assert [turn.question for turn in item.history] == [turn.question for turn in row.history]
    with pytest.raises(IndexError):
        data[250]


def test_unspoken_answers_are_none(folder):
    item = SpeechDataset(folder, "test")[0]
    assert item.answer_audio is None
    assert item.units is None
    assert item.history == ()


def test_lengths_come_without_sound(folder, monkeypatch):
    monkeypatch.setattr(dataset_module, "decode_flac", None)
    data = SpeechDataset(folder)
    rows = [make_row(i) for i in range(250)]
    np.testing.assert_allclose(data.lengths["question_s"], [row.question_s for row in rows])
    np.testing.assert_allclose(data.lengths["answer_s"], 0.4, rtol=1e-6)
    assert data.lengths["num_units"].tolist() == [3] * 250
    assert data.lengths["answer_chars"].tolist() == [len(row.answer) for row in rows]
    assert data.ids == [row.id for row in rows]
    unspoken = SpeechDataset(folder, "test").lengths
    assert unspoken["num_units"].tolist() == [0]
    assert unspoken["answer_s"].tolist() == [0.0]


def test_only_asked_columns_are_decoded(folder):
    item = SpeechDataset(folder, columns=["units"])[3]
    assert item.units is not None
    assert len(item.audio) == 0
    assert item.answer_audio is None
    with pytest.raises(ConfigError, match="no column 'audio' in a data set; it has id, split"):
        SpeechDataset(folder, columns=["audio"])


def test_cache_keeps_to_its_size(folder, monkeypatch):
    monkeypatch.setattr(dataset_module, "CACHE_BYTES", 1)
    data = SpeechDataset(folder)
    order = np.random.default_rng(0).permutation(250)
    assert ids_of(data[int(i)] for i in order) == [f"row-{i}" for i in order]
    assert len(data._held.groups) == 1


@pytest.mark.parametrize(("start", "workers"), [("fork", 2), ("spawn", 1)], ids=["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_loader_workers_read_it(folder, start, workers):
    data = SpeechDataset(folder)
    assert data[5].id == "row-5"  # so that the parent holds open files when it forks
    loader = DataLoader(
        data, batch_size=50, num_workers=workers, collate_fn=ids_of, multiprocessing_context=start
    )
    assert [name for batch in loader for name in batch] == data.ids


def test_threads_and_pickles_read_it(folder):
    data = pickle.loads(pickle.dumps(SpeechDataset(folder)))
    found, threads = {}, []
    for first in range(4):
        part = range(first, 250, 4)
        threads.append(
            threading.Thread(target=lambda part=part: found.update((i, data[i].id) for i in part))
        )
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {i: f"row-{i}" for i in range(250)}


def test_row_groups_are_small(folder):
    metadata = pq.read_metadata(folder / "data/train-00000.parquet")
    assert max(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)) <= 100
    sizes = [row.nbytes for row in [pq.read_table(folder / "data/train-00000.parquet")]]
    assert sizes[0] > 0


def test_equal_rows_give_equal_bytes(folder, tmp_path):
    rows = [make_row(i) for i in range(20)]
    one, two = (write_shard(tmp_path / name, "data/x-00000.parquet", "x", rows) for name in "ab")
    assert one == two
    check_shard(tmp_path / "a", two, hashed=True)


def test_datasets_library_reads_it_as_audio(folder):
    datasets = pytest.importorskip("datasets")
    files = {"train": str(folder / "data/train-*.parquet")}
    loaded = datasets.load_dataset(
        "parquet", data_files=files, split="train", cache_dir=str(folder / "cache")
    )
    assert loaded.features["question_audio"] == datasets.Audio(sampling_rate=16_000)
    assert len(loaded) == 250
    for column in ("question_audio", "answer_audio"):
        loaded = loaded.cast_column(column, datasets.Audio(decode=False))
    loaded = loaded.remove_columns("history")
    row = loaded[3]
    samples, rate = soundfile.read(io.BytesIO(row["question_audio"]["bytes"]))
    assert (rate, len(samples)) == (16_000, int(make_row(3).question_s * 16_000))
    assert row["units"] == make_row(3).units


# Refusals


def test_missing_split_names_those_there(folder):
    with pytest.raises(InputError, match=r"no split 'valid' in .*; it has train, test"):
        SpeechDataset(folder, "valid")


def test_folder_without_manifest_is_refused(tmp_path):
    with pytest.raises(InputError, match="found no manifest; if its build was interrupted"):
        SpeechDataset(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": 99}')
    with pytest.raises(InputError, match="must have format 1, got 99"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text("[1]")
    with pytest.raises(InputError, match="must be a data set's manifest"):
        SpeechDataset(tmp_path)


def test_cut_and_missing_shards_are_refused(folder):
    path = folder / "data/train-00001.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(InputError, match=r"train-00001.parquet must have .* bytes, got .* again"):
        SpeechDataset(folder)
    path.unlink()
    with pytest.raises(InputError, match=r"train-00001.parquet must be readable, got: No such"):
        SpeechDataset(folder)


@pytest.mark.parametrize("where", ["footer", "pages"])
def test_changed_shard_is_refused_by_name(folder, where):
    path = folder / "data/train-00000.parquet"
    data = bytearray(path.read_bytes())
    first = len(data) - 2000 if where == "footer" else 4
    data[first : first + 1500] = b"\xff" * 1500
    path.write_bytes(bytes(data))
    with pytest.raises(
        InputError, match=r"(?s)train-00000.parquet.*(copy it again|must hold FLAC)"
    ):
        [SpeechDataset(folder)[i] for i in range(100)]
    with pytest.raises(InputError, match="must have SHA-256"):
        check_shard(folder, read_shards(folder)[0], hashed=True)


def test_full_disk_leaves_no_shard(tmp_path, monkeypatch):
    def full(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"x-00000.parquet must be writable, got: No space left"):
        write_shard(tmp_path, "data/x-00000.parquet", "x", [make_row(0)])
    assert list((tmp_path / "data").iterdir()) == []
