import shutil

import pytest
import torch
from checkpoint_tools import cut_in_shards, edit_json, edit_tensors
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from llama_omni.checkpoint import convert
from llama_omni.checkpoint.safetensors_read import read_header
from llama_omni.errors import CheckpointError


@pytest.mark.parametrize("index", [True, False], ids=["index", "no index"])
def test_missing_shard_is_named(index, source, tmp_path):
    shard = cut_in_shards(source, index=index)[1]
    shard.unlink()
    with pytest.raises(CheckpointError, match=rf"{shard.name} must exist.* got no such file"):
        convert(source=source, output=tmp_path / "native")


def test_index_that_does_not_fit_its_shards_is_refused(source, tmp_path):
    shards = cut_in_shards(source, index=True)
    index = source / "model.safetensors.index.json"
    edit_tensors(shards[0], lambda tensors: tensors.pop("lm_head.weight"))
    with pytest.raises(
        CheckpointError, match=rf"{shards[0].name} must hold tensor lm_head\.weight"
    ):
        convert(source=source, output=tmp_path / "native")
    shutil.copyfile(shards[1], shards[0])
    with pytest.raises(CheckpointError, match=r"must be in one file, got model-00001.* and model-"):
        convert(source=source, output=tmp_path / "native")
    edit_json(index, weight_map={"lm_head.weight": "../model.safetensors"})
    with pytest.raises(CheckpointError, match=r"name files beside it, got '\.\./model"):
        convert(source=source, output=tmp_path / "native")
    index.write_text("[]")
    with pytest.raises(CheckpointError, match="must hold a JSON object, got list"):
        convert(source=source, output=tmp_path / "native")


SMALL = save({"a": torch.ones(3), "b": torch.ones(2, 2, dtype=torch.float16)})


@settings(deadline=None)  # a disk may be slow
@given(st.integers(0, len(SMALL) - 1))
def test_file_cut_anywhere_is_refused(tmp_path_factory, length):
    path = tmp_path_factory.mktemp("cut") / "model.safetensors"
    path.write_bytes(SMALL[:length])
    with pytest.raises(CheckpointError, match=r"model\.safetensors must"):
        read_header(path)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b"[]", "must have a safetensors header"),
        (b"{", "must have a safetensors header"),
        (b"[" * 100_000, "must have a safetensors header"),
        (b'{"a": {"dtype": "F32"}}', "must have a safetensors header"),
        (b'{"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}', "a in .* got F4"),
        (b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}', "must fill 8 bytes"),
        (b'{"a": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}}', "must fill"),
        (b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}', "must begin at byte"),
    ],
    ids=["list", "not json", "deep", "no shape", "unknown dtype", "size", "negative", "gap"],
)
def test_bad_header_is_refused(header, words, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 8)
    with pytest.raises(CheckpointError, match=words):
        read_header(path)


def test_file_with_something_behind_it_is_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(SMALL + b"\0")
    with pytest.raises(CheckpointError, match="something follows"):
        read_header(tmp_path / "model.safetensors")
