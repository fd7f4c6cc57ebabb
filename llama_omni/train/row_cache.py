"""Arrays of differing length for every row of a data set, on disk, made once.

A shard is a data file and then an index beside it: a shard without its index is not there, so
making the cache can be killed and goes on. Each row has a checksum; a damaged one is named.
"""

import json
import os
import zlib
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from llama_omni.data.shards import read_shards
from llama_omni.errors import OutputError, TrainingError
from llama_omni.model.tokenizer import TextTokenizer

Arrays = Mapping[str, np.ndarray]


class RowCache:
    """Rows of named arrays, memory-mapped.

    Args:
        folder: holds one folder for each key.
        key: JSON-able; all that the contents depend on. Another key is another cache.
        fields: name -> (dtype, width): each row's array is (n, width), n differing.
        num_rows: of the data set.
        rows_per_shard: made and written together.
    """

    def __init__(
        self,
        folder: Path,
        *,
        key: Mapping[str, Any],
        fields: Mapping[str, tuple[str, int]],
        num_rows: int,
        rows_per_shard: int = 512,
    ) -> None:
        text = json.dumps({"key": dict(key), "fields": dict(fields)}, sort_keys=True)
        self.folder = folder / blake2b(text.encode(), digest_size=8).hexdigest()
        self._fields, self._num_rows, self._size = dict(fields), num_rows, rows_per_shard
        self._index: dict[int, dict[str, Any]] = {}
        self._maps: dict[int, np.ndarray] = {}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "key.json").write_text(text + "\n")
        except OSError as error:
            raise OutputError(f"{self.folder} must be writable, got: {error.strerror}") from error

    def __len__(self) -> int:
        return self._num_rows

    def missing(self) -> list[range]:
        """Return the rows of each shard that is still to be made."""
        starts = range(0, self._num_rows, self._size)
        shards = [range(first, min(first + self._size, self._num_rows)) for first in starts]
        return [rows for rows in shards if not self._is_there(rows.start // self._size)]

    def write(self, rows: range, contents: Sequence[Arrays]) -> None:
        """Write one of the shards that are missing, in the order of its rows."""
        shard = rows.start // self._size
        index: dict[str, Any] = {"lengths": [], "crc": [], "bytes": 0}
        data, after = self._paths(shard)
        try:
            with _partial(data).open("wb") as stream:
                for row in contents:
                    text = b"".join(self._bytes(name, row[name]) for name in self._fields)
                    stream.write(text)
                    index["lengths"].append([len(row[name]) for name in self._fields])
                    index["crc"].append(zlib.crc32(text))
                    index["bytes"] += len(text)
                stream.flush()
                os.fsync(stream.fileno())
            _partial(data).replace(data)
            _partial(after).write_text(json.dumps(index))
            _partial(after).replace(after)
        except OSError as error:
            _partial(data).unlink(missing_ok=True)
            raise OutputError(f"{data} must be writable, got: {error.strerror}") from error

    def __getitem__(self, row: int) -> dict[str, np.ndarray]:
        """Read one row.

        Raises:
            TrainingError: the shard is missing or damaged; says what to delete.
        """
        shard, place = divmod(row, self._size)
        if shard not in self._maps:
            self._open(shard)
        index = self._index[shard]
        start, end = index["ends"][place], index["ends"][place + 1]
        text = self._maps[shard][start:end].tobytes()
        if zlib.crc32(text) != index["crc"][place]:
            raise self._damaged(shard, f"row {row} with another checksum")
        arrays, first = {}, 0
        lengths = index["lengths"][place]
        for (name, (dtype, width)), length in zip(self._fields.items(), lengths, strict=True):
            count = length * width
            flat = np.frombuffer(text, dtype, count, offset=first)
            arrays[name] = flat.reshape(length, width).copy()
            first += flat.nbytes
        return arrays

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": {}, "_index": {}}

    def _bytes(self, name: str, array: np.ndarray) -> bytes:
        dtype, width = self._fields[name]
        return np.ascontiguousarray(array, dtype).reshape(-1, width).tobytes()

    def _paths(self, shard: int) -> tuple[Path, Path]:
        return self.folder / f"rows-{shard:05d}.bin", self.folder / f"rows-{shard:05d}.json"

    def _is_there(self, shard: int) -> bool:
        data, after = self._paths(shard)
        return data.exists() and after.exists()

    def _open(self, shard: int) -> None:
        data, after = self._paths(shard)
        try:
            index = json.loads(after.read_text())
            size = data.stat().st_size
            if size != index["bytes"]:
                raise self._damaged(shard, f"{size} bytes instead of {index['bytes']}")
            sizes = [
                sum(
                    n * width * np.dtype(dtype).itemsize
                    for n, (dtype, width) in zip(lengths, self._fields.values(), strict=True)
                )
                for lengths in index["lengths"]
            ]
            index["ends"] = np.concatenate([[0], np.cumsum(sizes)]).tolist()
            self._maps[shard] = np.memmap(data, np.uint8, "r") if size else np.zeros(0, np.uint8)
            self._index[shard] = index
        except (OSError, ValueError, KeyError) as error:
            raise self._damaged(shard, str(error)) from error

    def _damaged(self, shard: int, found: str) -> TrainingError:
        data, after = self._paths(shard)
        return TrainingError(
            f"{data} must be as it was written, got {found}; delete {after.name}, it is made again"
        )


def weights_hash(*modules: nn.Module) -> str:
    """Return a hash of all weights of some modules; a second for each gigabyte."""
    digest = blake2b(digest_size=16)
    for module in modules:
        for name, value in sorted(module.state_dict().items()):
            digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def data_hash(dataset: Any) -> str:
    """Return a hash of what a data set holds: of its manifest, or of its ids."""
    digest = blake2b(digest_size=16)
    manifest = Path(getattr(dataset, "folder", "")) / "manifest.json"
    if manifest.is_file():
        digest.update(manifest.read_bytes())
        digest.update(str(getattr(dataset, "split", "")).encode())
    else:
        digest.update("\n".join(map(str, dataset.ids)).encode())
    return digest.hexdigest()


def splits_hash(data: Path, splits: Sequence[str]) -> str:
    """Return a hash of the rows of some splits of a data set, by what its manifest says of them.

    Unlike `data_hash` it stays the same where another split is added or taken away.
    """
    digest = blake2b(digest_size=16)
    for shard in read_shards(data):
        if shard.split in splits:
            digest.update(f"{shard.split} {shard.rows} {shard.sha256}\n".encode())
    return digest.hexdigest()


def tokens_hash(tokenizer: TextTokenizer) -> str:
    """Return a hash of a tokeniser's tokens and their ids."""
    tokens = json.dumps(sorted(tokenizer.inner.get_vocab().items()))
    return blake2b(tokens.encode(), digest_size=16).hexdigest()


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")
