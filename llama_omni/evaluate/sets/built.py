"""A split of a data set that `llama-omni data build` made.

Reads its Parquet itself: `data.dataset`, which also can, is torch's.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from llama_omni import audio
from llama_omni.data.flac import decode_flac
from llama_omni.data.schema import arrow
from llama_omni.data.shards import Shard, check_shard, read_manifest, read_shards
from llama_omni.errors import AudioError, InputError
from llama_omni.evaluate.records import EvalItem
from llama_omni.evaluate.sets.common import LONGEST_S
from llama_omni.interfaces import Audio

# Everything but sound, of which only whether there is some.
_COLUMNS = ("id", "intent", "question", "question_voice", "answer", "question_audio.path")
_MANY = 20  # voices; more are counted, not named


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """Where a row lies."""

    file: Path
    group: int
    row: int  # within the group


class BuiltSet:
    """Spoken questions without history; the right answer of each is the row's, in the same words.

    Args:
        folder: the data set's, with its manifest.
        split: of it; "" is the only one that is not for training.

    Raises:
        InputError: there is no such data set or split, a shard is missing, cut or damaged, or no
            row can be asked.
        MissingExtraError: pyarrow is not installed.
    """

    def __init__(self, folder: Path, split: str = "") -> None:
        if not folder.is_dir():
            raise InputError(f"{folder} must be a data set's folder, got no folder")
        shards = read_shards(folder)
        split = split or _held_out(folder, shards)
        chosen = [shard for shard in shards if shard.split == split]
        if not chosen:
            raise InputError(f"no split {split!r} in {folder}; it has {_splits(shards)}")
        self.name = f"{folder.resolve().name}, {split}"
        self._places: dict[str, _Place] = {}
        self._lock = threading.Lock()  # replies are asked for from several threads
        self._held: tuple[Path, int, Any] | None = None  # the sounds of the last row group
        items: list[EvalItem] = []
        voices: dict[str, None] = {}
        self._total = sum(shard.rows for shard in chosen)
        self._history = self._silent = 0
        for shard in chosen:
            check_shard(folder, shard)
            for place, row in _rows(folder / shard.file):
                if row["history"]:
                    self._history += 1
                elif row["question_audio"] is None:
                    self._silent += 1
                else:
                    items.append(_item(row))
                    self._places.setdefault(row["id"], place)
                    voices[row["question_voice"]] = None
        self.items = tuple(items)
        if not items:
            got = "; ".join(self.left_out) or "no row"
            raise InputError(f"{folder}:{split} must hold spoken questions, got none ({got})")
        self.notes = (*_spoken_by(sorted(voices), folder), *self.left_out)

    @property
    def left_out(self) -> tuple[str, ...]:
        """What of the split is not asked, and why; a sentence each."""
        counts = {
            "which follow earlier turns": self._history,
            "whose questions have no sound": self._silent,
        }
        return tuple(
            f"left out: {count} of {self._total} rows, {why}"
            for why, count in counts.items()
            if count
        )

    def speech(self, item: EvalItem) -> Audio:
        """Return a question's sound at 16 kHz.

        Raises:
            InputError: it, or its shard, cannot be read.
        """
        place = self._places[item.id]
        with self._lock:
            if self._held is None or self._held[:2] != (place.file, place.group):
                sounds = _opened(place.file, partial(_sounds, group=place.group))
                self._held = place.file, place.group, sounds
            data = self._held[2][place.row].as_py()["bytes"]
        try:
            name = f"the sound of {item.id} in {place.file}"
            return audio.check(decode_flac(data or b"", name), max_s=LONGEST_S, name=name)
        except AudioError as error:
            raise InputError(f"the sound of {item.id} cannot be used: {error}") from error


def _held_out(folder: Path, shards: Sequence[Shard]) -> str:
    """Return the only split that is not for training."""
    found = list(dict.fromkeys(shard.split for shard in shards if shard.split != "train"))
    if len(found) != 1:
        raise InputError(
            f"{folder} must be given with one of its splits, as {folder}:SPLIT; "
            f"it has {_splits(shards)}"
        )
    return found[0]


def _splits(shards: Sequence[Shard]) -> str:
    return ", ".join(dict.fromkeys(shard.split for shard in shards)) or "none"


def _item(row: dict[str, Any]) -> EvalItem:
    return EvalItem(
        id=row["id"],
        instruction=row["question"],
        references=(row["answer"],) if row["answer"].strip() else (),
        match="same",  # the row's answer is all that is said, no mere word of it
        category=row["intent"] or "",
    )


def _spoken_by(voices: Sequence[str], folder: Path) -> Iterator[str]:
    """Yield who asks, and what the manifest knows of the voices' licences."""
    named = ", ".join(voices) if len(voices) <= _MANY else f"{len(voices)} voices"
    yield f"Questions spoken by {named}."
    known = read_manifest(folder).get("voices") or {}
    if licences := sorted({known[voice]["licence"] for voice in voices if voice in known}):
        yield f"Licences of the voices: {', '.join(licences)}."


def _rows(file: Path) -> Iterator[tuple[_Place, dict[str, Any]]]:
    """Yield the rows of a shard without their sounds."""

    def read(shard: Any) -> list[list[dict[str, Any]]]:
        paths = [shard.schema.column(i).path for i in range(len(shard.schema.names))]
        columns = [path for path in paths if path in _COLUMNS or _is_earlier_question(path)]
        groups = range(shard.metadata.num_row_groups)
        return [shard.read_row_group(group, columns=columns).to_pylist() for group in groups]

    for group, rows in enumerate(_opened(file, read)):
        for number, row in enumerate(rows):
            yield _Place(file=file, group=group, row=number), row


def _is_earlier_question(path: str) -> bool:
    """Tell whether a column of leaves is that; what stands between depends on the writer."""
    return path.startswith("history.") and path.endswith(".question")


def _sounds(shard: Any, group: int) -> Any:
    return shard.read_row_group(group, columns=["question_audio.bytes"]).column("question_audio")


def _opened(file: Path, read: Callable[[Any], Any]) -> Any:
    """Return what `read` gives of a shard."""
    try:
        with arrow("pyarrow.parquet").ParquetFile(file) as shard:
            return read(shard)
    except (OSError, arrow().ArrowException) as error:
        raise InputError(
            f"{file} must be a whole shard, got: {error}; copy it again, or delete it and run its "
            "build again"
        ) from error
