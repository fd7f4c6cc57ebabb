"""Parquet shards and their manifest: written whole or not at all, read only where they fit it.

Row groups are small (at most 100 rows and a few megabytes), so that one row at random is quick.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from llama_omni.data.schema import Row, arrow, arrow_schema, table
from llama_omni.errors import InputError, OutputError
from llama_omni.files import sync_folder, write_text

MANIFEST = "manifest.json"
FORMAT = 1
ROW_GROUP_ROWS = 100
ROW_GROUP_BYTES = 4 << 20  # of sound: read for one row at random

_PIECE_BYTES = 1 << 22  # hashed at once


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """One file of a data set, as its manifest has it."""

    file: str  # relative to the data set's folder
    split: str
    rows: int
    bytes: int
    sha256: str


def shard_name(split: str, number: int) -> str:
    """Return the file of a split's shard, relative to the data set's folder."""
    return f"data/{split}-{number:05d}.parquet"


def write_shard(folder: Path, name: str, split: str, rows: Iterable[Row]) -> Shard:
    """Write one shard; it appears whole or not at all, and equal rows give equal bytes.

    Raises:
        OutputError: the place cannot be written to, or the disk is full.
    """
    path = folder / name
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    pq = arrow("pyarrow.parquet")
    compression = {column: "zstd" for column in _leaves()} | {
        column: "none" for column in _leaves() if column.endswith(".bytes")
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as sink:
            with pq.ParquetWriter(
                sink, arrow_schema(), compression=compression, use_dictionary=["split", "source"]
            ) as writer:
                num_rows = 0
                for group in _groups(rows):
                    writer.write_table(table(group), row_group_size=len(group))
                    num_rows += len(group)
            sink.flush()
            os.fsync(sink.fileno())
        shard = _describe(part, name, split, num_rows)
        part.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OutputError(f"{path} must be writable, got: {error.strerror or error}") from error
    return shard


def forget_shards(folder: Path) -> None:
    """Delete the shards of a data set that has no manifest yet.

    Raises:
        OutputError: one cannot be deleted.
    """
    for path in (folder / shard_name("any", 0)).parent.glob("*.parquet"):
        try:
            path.unlink()
        except OSError as error:
            raise OutputError(f"{path} must be deletable, got: {error.strerror}") from error


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest, the last of a data set's files.

    Raises:
        OutputError: it cannot be written.
    """
    write_text(folder / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a data set.

    Raises:
        InputError: the folder holds no finished data set, or one of another version.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        found = manifest["format"]
    except FileNotFoundError as error:
        raise InputError(
            f"{folder} must hold a data set (a manifest.json and data/), found no manifest; if its "
            "build was interrupted, run the same command again"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} must be a data set's manifest, got: {error}") from error
    if found != FORMAT:
        raise InputError(f"{path} must have format {FORMAT}, got {found!r}")
    return manifest


def read_shards(folder: Path) -> list[Shard]:
    """Return what the manifest says of each shard, in order."""
    try:
        return [Shard(**entry) for entry in read_manifest(folder)["shards"]]
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder / MANIFEST} must list the shards, got: {error}") from error


def check_shard(folder: Path, shard: Shard, *, hashed: bool = False) -> None:
    """Compare a file with its manifest: its size, and every byte where `hashed`.

    Raises:
        InputError: it is missing, cut or changed.
    """
    path = folder / shard.file
    remedy = "copy it again, or delete it and run its build again"
    try:
        size = path.stat().st_size
        digest = sha256(path) if hashed else shard.sha256
    except OSError as error:
        raise InputError(f"{path} must be readable, got: {error.strerror}; {remedy}") from error
    if size != shard.bytes:
        raise InputError(f"{path} must have {shard.bytes:,} bytes, got {size:,}; {remedy}")
    if digest != shard.sha256:
        raise InputError(f"{path} must have SHA-256 {shard.sha256}, got {digest}; {remedy}")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def _describe(path: Path, name: str, split: str, num_rows: int) -> Shard:
    return Shard(
        file=name, split=split, rows=num_rows, bytes=path.stat().st_size, sha256=sha256(path)
    )


def _groups(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Cut rows into row groups; an empty shard has none."""
    group: list[Row] = []
    num_bytes = 0
    for row in rows:
        sounds = [
            row.question_audio,
            row.answer_audio,
            *(turn.question_audio for turn in row.history),
        ]
        size = sum(len(sound.bytes) for sound in sounds if sound is not None)
        if group and (len(group) == ROW_GROUP_ROWS or num_bytes + size > ROW_GROUP_BYTES):
            yield group
            group, num_bytes = [], 0
        group.append(row)
        num_bytes += size
    if group:
        yield group


@cache
def _leaves() -> list[str]:
    """Return the paths of the columns as Parquet counts them."""
    parquet = arrow("pyarrow.parquet")
    sink = arrow().BufferOutputStream()
    parquet.write_table(arrow_schema().empty_table(), sink)
    schema = parquet.ParquetFile(arrow().BufferReader(sink.getvalue())).schema
    return [schema.column(i).path for i in range(len(schema.names))]
