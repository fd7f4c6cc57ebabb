"""The sounds that units are made of: files, folders of files, or a data set's answers."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from llama_omni import audio
from llama_omni.data.dataset import SpeechDataset
from llama_omni.data.shards import MANIFEST, read_shards
from llama_omni.errors import ConfigError, InputError

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
COLUMNS = ("answer", "question")
_MAX_S = 4 * 3600.0  # of one file


class Sounds:
    """Sounds by number, each read and decoded when it is asked for; goes between processes.

    No `Sequence`, as nobody shall look at one by the way: that decodes it.

    Args:
        ids: of each sound: its file's path within the folder that was named, or its row's id.
        places: of each: a file, or the number of a split and of a row in it.
        splits: of a data set.
        column: "answer" or "question" of a data set.
    """

    def __init__(
        self,
        ids: Sequence[str],
        places: Sequence[Path | tuple[int, int]],
        splits: Sequence[SpeechDataset] = (),
        column: str = "answer",
    ) -> None:
        self.ids, self._places, self._splits, self._column = ids, places, splits, column
        if len(set(ids)) < len(ids):
            known: set[str] = set()
            double = next(name for name in ids if name in known or known.add(name))
            raise InputError(f"every sound must have a name of its own, got {double} twice")

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Float32[np.ndarray, " _"]]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Float32[np.ndarray, " S"]:
        """Return (S,) samples at 16 kHz.

        Raises:
            AudioError: the sound cannot be read; names it.
        """
        place = self._places[index]
        if isinstance(place, Path):
            return audio.load(place, min_s=0.0, max_s=_MAX_S)
        example = self._splits[place[0]][place[1]]
        sound = example.answer_audio if self._column == "answer" else example.audio
        assert sound is not None, "rows without sound were left out"
        return sound


def open_sounds(
    inputs: Sequence[str | os.PathLike[str]], *, column: str = "answer", split: str | None = None
) -> Sounds:
    """Find sounds: in files, in folders at any depth, or in one data set.

    Args:
        inputs: files and folders; or the folder of one data set that `data build` made.
        column: whose sound of a data set: "answer" or "question".
        split: of a data set; None is all of them. Rows without sound are left out.

    Raises:
        InputError: there is no sound, no such place, or a damaged data set.
        ConfigError: no such column.
    """
    paths = [Path(path) for path in inputs]
    if column not in COLUMNS:
        raise ConfigError(f"column must be {' or '.join(COLUMNS)}, got {column!r}")
    sets = [path for path in paths if (path / MANIFEST).is_file()]
    if sets:
        if len(paths) > 1:
            raise InputError(f"a data set must be the only input, got {len(paths)} inputs")
        return _of_dataset(sets[0], column, split)
    if split is not None:
        raise InputError(f"a split must be of a data set, got {split!r} and none in {paths[0]}")
    ids: list[str] = []
    files: list[Path] = []
    for path in paths:
        found = _files_in(path) if path.is_dir() else [path]
        if not path.exists():
            raise InputError(f"{path} must be a sound file, a folder or a data set, found nothing")
        if not found:
            raise InputError(
                f"{path} must hold {', '.join(SUFFIXES)} files or a data set, got none"
            )
        ids += [file.relative_to(path).as_posix() if path.is_dir() else file.name for file in found]
        files += found
    return Sounds(ids, files)


def _files_in(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
    )


def _of_dataset(folder: Path, column: str, split: str | None) -> Sounds:
    names = [split] if split is not None else _splits_of(folder)
    splits = [SpeechDataset(folder, name, columns=[f"{column}_audio"]) for name in names]
    ids: list[str] = []
    places: list[tuple[int, int]] = []
    for number, rows in enumerate(splits):
        for row in np.flatnonzero(rows.lengths[f"{column}_s"] > 0).tolist():
            ids.append(rows.ids[row])
            places.append((number, row))
    if not ids:
        raise InputError(f"{folder} must hold spoken {column}s, got none in {', '.join(names)}")
    return Sounds(ids, places, splits, column)


def _splits_of(folder: Path) -> list[str]:
    return list(dict.fromkeys(shard.split for shard in read_shards(folder)))
