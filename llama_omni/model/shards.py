"""Safetensors files: read their headers, check them, and write new ones piece by piece.

A file is eight bytes (the header's length, little endian), a JSON header, and the tensors' bytes.
Unusual: we read headers ourselves, because the library's errors name neither file nor tensor, and
write ourselves, because its writer holds every tensor of a file in memory at once.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from llama_omni.errors import CheckpointError

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
PIECE_BYTES = 1 << 24  # how much of a tensor is in memory at once

_ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredTensor:
    """Where one tensor lies in a safetensors file."""

    path: Path
    name: str
    dtype: str  # the format's name: F16, BF16, F32, ...
    shape: tuple[int, ...]
    start: int  # of its bytes, from the beginning of the file
    end: int

    def pieces(self) -> Iterator[Tensor]:
        """Yield the tensor's values in order, flat, at most `PIECE_BYTES` at a time."""
        with self.path.open("rb") as file:
            file.seek(self.start)
            left = self.end - self.start
            while left:
                raw = bytearray(file.read(min(PIECE_BYTES, left)))
                if not raw:
                    raise CheckpointError(f"{self.path} must not change while it is read, got cut")
                left -= len(raw)
                yield torch.frombuffer(raw, dtype=DTYPES[self.dtype])


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Return what one safetensors file holds, after checking that all of it is there.

    Raises:
        CheckpointError: the file is missing, cut short, or no safetensors file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or 8 + length > size or length > _MAX_HEADER_BYTES:
                raise CheckpointError(
                    f"{path} must be a whole safetensors file, got {size} bytes where its header "
                    f"alone says {length}: it is truncated or something else"
                )
            raw = file.read(length)
    except OSError as error:
        raise CheckpointError(f"{path} must be a readable file, got: {error.strerror}") from error
    try:
        header = json.loads(raw)
        header.pop("__metadata__", None)
        tensors = {name: _entry(path, name, 8 + length, value) for name, value in header.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path} must have a safetensors header, got: {error}") from error
    end = max((tensor.end for tensor in tensors.values()), default=8 + length)
    if size != end:
        last = max(tensors.values(), key=lambda tensor: tensor.end, default=None)
        name = "" if last is None else f", the end of tensor {last.name}"
        raise CheckpointError(
            f"{path} must be {end} bytes long{name}, got {size} bytes: "
            + ("the file is truncated" if size < end else "something follows the last tensor")
        )
    return tensors


def _entry(path: Path, name: str, base: int, value: Mapping[str, Any]) -> StoredTensor:
    dtype, shape = value["dtype"], tuple(int(size) for size in value["shape"])
    start, end = value["data_offsets"]
    if dtype not in _ITEM_BYTES:
        _refuse_dtype(path, name, dtype)
    expected = math.prod(shape) * _ITEM_BYTES[dtype]
    if start < 0 or end - start != expected:
        raise CheckpointError(
            f"tensor {name} in {path} must fill {expected} bytes for shape {shape} of {dtype}, "
            f"got offsets {start} to {end}"
        )
    return StoredTensor(
        path=path, name=name, dtype=dtype, shape=shape, start=base + start, end=base + end
    )


def _refuse_dtype(path: Path, name: str, dtype: str) -> NoReturn:
    raise CheckpointError(f"tensor {name} in {path} must be {', '.join(DTYPES)}, got {dtype}")


def read_folder(folder: Path) -> dict[str, StoredTensor]:
    """Return every tensor of a folder: its index's shards, or all the `model*.safetensors` it has.

    Raises:
        CheckpointError: there is none, a shard is missing or damaged, a tensor is missing from the
            shard that should have it, is there twice, or is no float.
    """
    index = folder / INDEX_NAME
    if index.is_file():
        weight_map = _read_index(index)
        paths = sorted({folder / name for name in weight_map.values()})
        for path in paths:
            if not path.is_file():
                lost = sorted(key for key, name in weight_map.items() if name == path.name)
                raise CheckpointError(
                    f"{path} must exist: {INDEX_NAME} says it holds {len(lost)} tensors "
                    f"({lost[0]}, ...), got no such file"
                )
    else:
        weight_map = {}
        paths = _unindexed(folder)
    tensors: dict[str, StoredTensor] = {}
    for path in paths:
        for name, tensor in read_header(path).items():
            if name in tensors:
                raise CheckpointError(
                    f"tensor {name} must be in one file, got {tensors[name].path.name} and "
                    f"{path.name} in {folder}"
                )
            if tensor.dtype not in DTYPES:
                _refuse_dtype(path, name, tensor.dtype)
            tensors[name] = tensor
    for name, file in weight_map.items():
        if name not in tensors or tensors[name].path.name != file:
            raise CheckpointError(f"{folder / file} must hold tensor {name}, as {index.name} says")
    return tensors


def _read_index(path: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        names = {str(key): str(value) for key, value in weight_map.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path} must hold a JSON weight_map, got: {error!r}") from error
    for key, name in names.items():
        if not name or Path(name).name != name:
            raise CheckpointError(f"{path} must name files beside it, got {name!r} for {key}")
    return names


def _unindexed(folder: Path) -> list[Path]:
    paths = sorted(folder.glob("model*.safetensors"))
    if not paths:
        pickled = sorted(path.name for path in folder.glob("*.bin"))
        hint = f" (not read: {', '.join(pickled)}; save them as safetensors)" if pickled else ""
        raise CheckpointError(f"{folder} must hold {SINGLE_NAME} or its shards, got none{hint}")
    for path in paths:
        number, of, total = path.stem.removeprefix("model-").partition("-of-")
        if of and number.isdigit() and total.isdigit():
            for count in range(1, int(total) + 1):
                shard = folder / f"model-{count:0{len(number)}}-of-{total}.safetensors"
                if not shard.is_file():
                    raise CheckpointError(
                        f"{shard} must exist beside {path.name}, got no such file"
                    )
    return paths


@dataclass(frozen=True, kw_only=True, slots=True)
class NewTensor:
    """A tensor to be written: its values come when they are wanted."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    pieces: Any  # () -> Iterator[Tensor], flat, in order

    @property
    def num_bytes(self) -> int:
        """Bytes that it fills in the file."""
        return math.prod(self.shape) * self.dtype.itemsize


def plan_shards(tensors: Iterable[NewTensor], max_bytes: int) -> list[list[NewTensor]]:
    """Cut tensors into shards of at most `max_bytes`, in order; a larger tensor has its own."""
    shards: list[list[NewTensor]] = []
    size = 0
    for tensor in tensors:
        if not shards or size + tensor.num_bytes > max_bytes:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.num_bytes
    return shards
