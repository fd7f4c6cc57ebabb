"""Read safetensors files: check that they are whole, and get tensors a piece at a time.

A file is eight bytes (the header's length, little endian), a JSON header, and the tensors' bytes.
Unusual: headers are read here, because the library's errors name neither file nor tensor.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol, runtime_checkable

import torch
from torch import Tensor

from llama_omni.errors import CheckpointError

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
PIECE_BYTES = 1 << 22  # how much of a tensor is in memory at once

_ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit

# Where a training leaves its model, the one to use first.
_PRODUCTS = ("stage2/best", "stage2/final", "stage1/final", "best", "final")


@runtime_checkable
class Source(Protocol):
    """A tensor somewhere on disk, whose values come a piece at a time."""

    @property
    def path(self) -> Path:
        """The file that holds it."""
        ...

    @property
    def name(self) -> str:
        """Its name in that file."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """What `pieces` gives."""
        ...

    def pieces(self) -> Iterator[Tensor]:
        """Yield the values in order, flat, at most `PIECE_BYTES` at a time."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredTensor:
    """Where one tensor lies in a safetensors file; a `Source` if it is one of `DTYPES`."""

    path: Path
    name: str
    format: str  # the file's word for its dtype: F16, BF16, F32, ...
    shape: tuple[int, ...]
    start: int  # of its bytes, from the beginning of the file
    end: int

    @property
    def dtype(self) -> torch.dtype:
        """See `Source`."""
        return DTYPES[self.format]

    def pieces(self) -> Iterator[Tensor]:
        """See `Source`."""
        left = self.end - self.start
        try:
            with self.path.open("rb") as file:
                file.seek(self.start)
                while left:
                    wanted = min(PIECE_BYTES, left)
                    raw = bytearray(wanted)
                    if file.readinto(raw) != wanted:
                        raise CheckpointError(
                            f"{self.path} must stay as it is while it is read, got cut short"
                        )
                    left -= wanted
                    yield torch.frombuffer(raw, dtype=self.dtype)
        except OSError as error:
            raise CheckpointError(
                f"tensor {self.name} in {self.path} must be readable, got: {error.strerror}"
            ) from error


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
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} must have a safetensors header, got: {error!r}") from error
    end, last = 8 + length, "the header"
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.start, tensor.end)):
        if tensor.start != end:
            raise CheckpointError(
                f"tensor {tensor.name} in {path} must begin at byte {end}, behind {last}, "
                f"got {tensor.start}"
            )
        end, last = tensor.end, f"tensor {tensor.name}"
    if size != end:
        raise CheckpointError(
            f"{path} must be {end} bytes long, up to the end of {last}, got {size} bytes: "
            + ("the file is truncated" if size < end else "something follows")
        )
    return tensors


def _entry(path: Path, name: str, base: int, value: Mapping[str, Any]) -> StoredTensor:
    word, shape = value["dtype"], tuple(int(size) for size in value["shape"])
    start, end = (int(offset) for offset in value["data_offsets"])
    if word not in _ITEM_BYTES:
        _refuse_dtype(path, name, word)
    num_bytes = math.prod(shape) * _ITEM_BYTES[word]
    if min(shape, default=0) < 0 or end - start != num_bytes:
        raise CheckpointError(
            f"tensor {name} in {path} must fill {num_bytes} bytes for shape {shape} of {word}, "
            f"got offsets {start} to {end}"
        )
    return StoredTensor(
        path=path, name=name, format=word, shape=shape, start=base + start, end=base + end
    )


def _refuse_dtype(path: Path, name: str, dtype: str) -> NoReturn:
    raise CheckpointError(f"tensor {name} in {path} must be {', '.join(DTYPES)}, got {dtype}")


def read_folder(folder: Path) -> dict[str, StoredTensor]:
    """Return every tensor of a folder: one file, its index's shards, or its numbered shards.

    Raises:
        CheckpointError: there is none, a shard is missing or damaged, a tensor is missing from the
            shard that should have it, is there twice, or is no float.
    """
    weight_map: dict[str, str] = {}
    if (folder / SINGLE_NAME).is_file():
        paths = [folder / SINGLE_NAME]
    elif (folder / INDEX_NAME).is_file():
        weight_map = _read_index(folder / INDEX_NAME)
        paths = _indexed(folder, weight_map)
    else:
        paths = _numbered(folder)
    tensors: dict[str, StoredTensor] = {}
    for path in paths:
        for name, tensor in read_header(path).items():
            if name in tensors:
                raise CheckpointError(
                    f"tensor {name} must be in one file, got {tensors[name].path.name} and "
                    f"{path.name} in {folder}"
                )
            if tensor.format not in DTYPES:
                _refuse_dtype(path, name, tensor.format)
            tensors[name] = tensor
    for name, file in weight_map.items():
        if name not in tensors or tensors[name].path.name != file:
            raise CheckpointError(f"{folder / file} must hold tensor {name}, as {INDEX_NAME} says")
    return tensors


def _read_index(path: Path) -> dict[str, str]:
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{path} must hold a weight_map, got {weight_map!r}")
    for key, name in weight_map.items():
        if not isinstance(name, str) or not name or Path(name).name != name:
            raise CheckpointError(f"{path} must name files beside it, got {name!r} for {key}")
    return weight_map


def _indexed(folder: Path, weight_map: Mapping[str, str]) -> list[Path]:
    paths = sorted({folder / name for name in weight_map.values()})
    for path in paths:
        if not path.is_file():
            lost = sorted(key for key, name in weight_map.items() if name == path.name)
            raise CheckpointError(
                f"{path} must exist: {INDEX_NAME} says it holds {len(lost)} tensors "
                f"({lost[0]}, ...), got no such file"
            )
    return paths


def _numbered(folder: Path) -> list[Path]:
    paths = sorted(folder.glob("model-*-of-*.safetensors"))
    if not paths:
        pickled = sorted(path.name for path in folder.glob("*.bin"))
        hint = f" (not read: {', '.join(pickled)}; save them as safetensors)" if pickled else ""
        raise CheckpointError(f"{folder} must hold {SINGLE_NAME} or its shards, got none{hint}")
    number, _, total = paths[0].stem.removeprefix("model-").partition("-of-")
    for count in range(1, int(total) + 1 if total.isdigit() else 1):
        shard = folder / f"model-{count:0{len(number)}}-of-{total}.safetensors"
        if not shard.is_file():
            raise CheckpointError(f"{shard} must exist beside {paths[0].name}, got no such file")
    return paths


def read_config(folder: Path) -> dict[str, Any]:
    """Return the object in a folder's config.json.

    Raises:
        CheckpointError: it is missing or holds something else, or the folder is a training's.
    """
    refuse_run(folder)
    return read_json(folder / "config.json")


def refuse_run(folder: Path) -> None:
    """Refuse the folder of a training where a model's is wanted, and name the model in it.

    Raises:
        CheckpointError: it is one; any other folder passes.
    """
    if (folder / "config.json").is_file():
        return
    for product in _PRODUCTS:
        if (folder / product / "config.json").is_file():
            raise CheckpointError(f"{folder} is a run; its model is {folder / product}")


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        CheckpointError: the file is missing or holds something else.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} must be a readable file, got: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} must hold JSON, got: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} must hold a JSON object, got {type(values).__name__}")
    return values
