"""Write safetensors files a piece at a time.

Unusual: written here, because the library's writer wants every tensor of a file at once, which is
a whole shard in memory where the dtype changes, and a second one before safetensors 0.8 (ADR 0005).
This one holds a piece of one tensor, whatever the size of the file.
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llama_omni.checkpoint.safetensors_read import DTYPES, INDEX_NAME, SINGLE_NAME, Source
from llama_omni.errors import CheckpointError


@dataclass(frozen=True, kw_only=True, slots=True)
class NewTensor:
    """A tensor to be written: another one's values under a new name, perhaps in another dtype."""

    name: str
    source: Source
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        """Bytes that it fills in the file."""
        return math.prod(self.source.shape) * self.dtype.itemsize

    def pieces(self) -> Iterator[Tensor]:
        """Yield the values in order, flat, in their new dtype.

        Raises:
            CheckpointError: a finite value is infinite in the new dtype.
        """
        smaller = torch.finfo(self.dtype).max < torch.finfo(self.source.dtype).max
        for piece in self.source.pieces():
            cast = piece.to(self.dtype)
            if smaller and bool((cast.isinf() & piece.isfinite()).any()):
                peak = piece[piece.isfinite()].abs().max().item()
                raise CheckpointError(
                    f"tensor {self.source.name} in {self.source.path} must fit {self.dtype}, got "
                    f"{peak:g}; choose bfloat16 or float32"
                )
            yield cast


def write_folder(
    folder: Path,
    tensors: Iterable[NewTensor],
    *,
    max_shard_bytes: int,
    progress: Callable[[int, str], None] = lambda _num_bytes, _file: None,
) -> None:
    """Write tensors in order as one safetensors file, or as shards with an index.

    Args:
        folder: must exist.
        tensors: their values are asked for one piece at a time.
        max_shard_bytes: of one file's tensors; a larger tensor has a file of its own.
        progress: told the bytes of each piece written, and to which file.
    """
    shards: list[list[NewTensor]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.num_bytes > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.num_bytes
    names = [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    if len(shards) == 1:
        names = [SINGLE_NAME]
    weight_map: dict[str, str] = {}
    for name, shard in zip(names, shards, strict=True):
        _write_file(folder / name, shard, progress)
        weight_map |= dict.fromkeys((tensor.name for tensor in shard), name)
    if len(shards) > 1:
        total = sum(tensor.num_bytes for shard in shards for tensor in shard)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _write_file(path: Path, tensors: list[NewTensor], progress: Callable[[int, str], None]) -> None:
    words = {dtype: word for word, dtype in DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        start, end = end, end + tensor.num_bytes
        header[tensor.name] = {
            "dtype": words[tensor.dtype],
            "shape": tensor.source.shape,
            "data_offsets": (start, end),
        }
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)  # tensors begin at a multiple of eight
    with path.open("xb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for tensor in tensors:
            for piece in tensor.pieces():
                file.write(piece.view(torch.uint8).numpy().data)
                progress(piece.nbytes, path.name)
        assert file.tell() == 8 + len(raw) + end, f"sources of {path} gave what they announced"
        file.flush()
        os.fsync(file.fileno())
