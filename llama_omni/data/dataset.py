"""A data set on disk as torch's `Dataset`: lengths at once, rows and their sound when asked for.

Safe in threads and in forked or spawned loader workers: open files and the cache of row groups
belong to one process, and a process that finds another's begins its own.
"""

import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from llama_omni.data.flac import decode_flac
from llama_omni.data.schema import COLUMNS, arrow
from llama_omni.data.shards import check_shard, read_shards
from llama_omni.errors import ConfigError, InputError

CACHE_BYTES = 64 << 20  # of row groups a process keeps

_ALWAYS = ("id", "intent", "question_voice", "question", "answer")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class HistoryTurn:
    """An earlier question of the same conversation and its answer."""

    question: str
    answer: str
    audio: NDArray[np.float32] | None  # (S,) at 16 kHz; None: it was not spoken


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Example:
    """One row, decoded. What was not asked for, or is not there, is None (`audio`: no samples)."""

    id: str
    intent: str | None
    voice: str  # of the question
    question: str
    audio: NDArray[np.float32]  # (S,) the spoken question at 16 kHz
    answer: str
    answer_audio: NDArray[np.float32] | None
    units: NDArray[np.int64] | None  # (U,) reduced
    durations: NDArray[np.int64] | None  # (U,) frames of each unit at 50 Hz
    history: tuple[HistoryTurn, ...]
    written: bool = False  # a question that was never spoken


@dataclass(frozen=True, slots=True)
class _Group:
    """Where a row group lies."""

    shard: int
    number: int
    first_row: int  # within the split


@dataclass(slots=True)
class _Open:
    """What one process holds open."""

    pid: int
    lock: Any = field(default_factory=threading.Lock)
    files: dict[int, Any] = field(default_factory=dict)
    groups: OrderedDict[int, Any] = field(default_factory=OrderedDict)
    num_bytes: int = 0


class SpeechDataset(Dataset[Example]):
    """One split of a data set that `llama-omni data build` made.

    Args:
        folder: The data set's folder.
        split: "train", or a held-out set's name.
        columns: What is read and decoded beside id, intent, voice and texts, of
            "question_audio", "answer_audio", "units", "durations", "history"; all by default.

    Raises:
        InputError: there is no such data set or split, or a shard is missing, cut or damaged.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        split: str = "train",
        *,
        columns: Sequence[str] | None = None,
    ) -> None:
        self.folder, self.split = Path(folder), split
        wanted = COLUMNS if columns is None else tuple(columns)
        for name in wanted:
            if name not in COLUMNS:
                raise ConfigError(f"no column {name!r} in a data set; it has {', '.join(COLUMNS)}")
        self.columns = tuple(name for name in COLUMNS if name in (*_ALWAYS, *wanted))
        shards = read_shards(self.folder)
        self._shards = [shard for shard in shards if shard.split == split]
        if not self._shards:
            known = ", ".join(dict.fromkeys(shard.split for shard in shards)) or "none"
            raise InputError(f"no split {split!r} in {self.folder}; it has {known}")
        self._groups: list[_Group] = []
        self._length = 0
        for number, shard in enumerate(self._shards):
            check_shard(self.folder, shard)
            metadata = self._guarded(number, lambda file: file.metadata)
            for group in range(metadata.num_row_groups):
                self._groups.append(_Group(number, group, self._length))
                self._length += metadata.row_group(group).num_rows
        self._starts = [group.first_row for group in self._groups]

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Example:
        """Read and decode one row; negative indices count from the end."""
        index = index + len(self) if index < 0 else index
        if not 0 <= index < len(self):
            raise IndexError(f"row must be below {len(self)}, got {index}")
        number = bisect_right(self._starts, index) - 1
        group = self._groups[number]
        rows = self._rows(number, group)
        row = rows.slice(index - group.first_row, 1).to_pylist()[0]
        return self._example(row, self.folder / self._shards[group.shard].file)

    @cached_property
    def ids(self) -> list[str]:
        """The id of each row."""
        return self._column("id").to_pylist()

    @cached_property
    def lengths(self) -> dict[str, np.ndarray]:
        """Sizes of each row, without any sound being read.

        Returns:
            (N,) arrays "question_s" and "answer_s" in seconds, "num_units" (0 where there are
            none, as are seconds) and "answer_chars".
        """
        compute = arrow("pyarrow.compute")
        sizes = {
            "question_s": self._column("question_s"),
            "answer_s": self._column("answer_s"),
            "num_units": compute.list_value_length(self._column("units")),
            "answer_chars": compute.utf8_length(self._column("answer")),
        }
        kinds = {"question_s": np.float32, "answer_s": np.float32}
        return {
            name: compute.fill_null(values, 0).to_numpy().astype(kinds.get(name, np.int64))
            for name, values in sizes.items()
        }

    def __getstate__(self) -> dict[str, Any]:
        """Leave open files behind: the process that gets this opens its own."""
        return {name: value for name, value in self.__dict__.items() if name != "_held"}

    def _example(self, row: dict[str, Any], path: Path) -> Example:
        name = f"{path}, row {row['id']!r}"
        question = _decoded(row.get("question_audio"), f"{name}, question_audio")
        return Example(
            id=row["id"],
            intent=row["intent"],
            voice=row["question_voice"],
            question=row["question"],
            audio=np.zeros(0, np.float32) if question is None else question,
            answer=row["answer"],
            answer_audio=_decoded(row.get("answer_audio"), f"{name}, answer_audio"),
            units=_integers(row.get("units")),
            durations=_integers(row.get("durations")),
            history=tuple(
                HistoryTurn(
                    question=turn["question"],
                    answer=turn["answer"],
                    audio=_decoded(turn["question_audio"], f"{name}, history"),
                )
                for turn in row.get("history") or ()
            ),
        )

    def _column(self, name: str) -> Any:
        """Read one whole column; the others are not touched."""
        pieces = [
            self._guarded(number, lambda file: file.read([name], use_threads=False))
            for number in range(len(self._shards))
        ]
        return arrow().concat_tables(pieces).column(name).combine_chunks()

    def _rows(self, number: int, group: _Group) -> Any:
        """Return a row group from the cache, or read it."""
        held = self._mine()
        with held.lock:
            if number in held.groups:
                held.groups.move_to_end(number)
                return held.groups[number]
        columns = list(self.columns)
        rows = self._guarded(
            group.shard,
            lambda file: file.read_row_group(group.number, columns=columns, use_threads=False),
        )
        with held.lock:
            if number not in held.groups:
                held.groups[number] = rows
                held.num_bytes += rows.nbytes
            while held.num_bytes > CACHE_BYTES and len(held.groups) > 1:
                held.num_bytes -= held.groups.popitem(last=False)[1].nbytes
        return rows

    def _guarded(self, number: int, read: Any) -> Any:
        """Let `read` use a shard's open file, alone; say which file is damaged, and what to do."""
        held, path = self._mine(), self.folder / self._shards[number].file
        try:
            with held.lock:
                if number not in held.files:
                    parquet = arrow("pyarrow.parquet")
                    held.files[number] = parquet.ParquetFile(path, memory_map=True)
                return read(held.files[number])
        except (OSError, arrow().ArrowException) as error:
            raise InputError(
                f"{path} must be a whole shard, got: {error}; copy it again, or delete it and run "
                "its build again"
            ) from error

    def _mine(self) -> _Open:
        held: _Open | None = self.__dict__.get("_held")
        if held is None or held.pid != os.getpid():
            self._held = held = _Open(os.getpid())
        return held


def _decoded(sound: dict[str, Any] | None, name: str) -> NDArray[np.float32] | None:
    return None if sound is None or sound["bytes"] is None else decode_flac(sound["bytes"], name)


def _integers(values: list[int] | None) -> NDArray[np.int64] | None:
    return None if values is None else np.array(values, np.int64)
