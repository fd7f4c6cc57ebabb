import math

import pytest
import torch
from checkpoint_tools import same
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from llama_omni.checkpoint import convert, load_model, released_encoder, safetensors_read
from llama_omni.checkpoint.safetensors_read import read_folder, read_header
from llama_omni.checkpoint.safetensors_write import NewTensor, write_folder

shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
dtypes = st.sampled_from([torch.float32, torch.float16, torch.bfloat16])


@settings(deadline=None)  # a disk may be slow
@given(st.lists(st.tuples(shapes, dtypes, dtypes), min_size=1, max_size=6), st.integers(1, 200))
def test_the_library_reads_what_we_write(tmp_path_factory, tensors, max_shard_bytes):
    folder = tmp_path_factory.mktemp("written")
    values = {
        f"t{i}": torch.arange(math.prod(shape)).view(shape).to(dtype)
        for i, (shape, dtype, _) in enumerate(tensors)
    }
    save_file(values, folder / "source.safetensors")
    stored = read_header(folder / "source.safetensors")
    new = [
        NewTensor(name=f"new.{name}", source=stored[name], dtype=target)
        for name, (_, _, target) in zip(values, tensors, strict=True)
    ]
    write_folder(folder, new, max_shard_bytes=max_shard_bytes)
    found = {}
    for path in folder.glob("model*.safetensors"):
        found |= load_file(path)
        with safe_open(path, "pt") as file:
            assert file.metadata() == {"format": "pt"}
    assert found.keys() == {tensor.name for tensor in new} == read_folder(folder).keys()
    for tensor in new:
        assert torch.equal(found[tensor.name], values[tensor.source.name].to(tensor.dtype))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tensors_pass_in_small_pieces(dtype, source, tmp_path, monkeypatch):
    convert(source=source, output=tmp_path / "large", dtype=dtype)
    sizes = []
    pieces = NewTensor.pieces

    def spy(tensor):
        for piece in pieces(tensor):
            sizes.append(piece.nbytes)
            yield piece

    monkeypatch.setattr(NewTensor, "pieces", spy)
    monkeypatch.setattr(safetensors_read, "PIECE_BYTES", 1024)
    monkeypatch.setattr(released_encoder, "PIECE_BYTES", 1024)
    convert(source=source, output=tmp_path / "small", dtype=dtype)
    assert max(sizes) == (1024 if dtype == "float32" else 512)
    assert same(load_model(tmp_path / "large"), load_model(tmp_path / "small"))
