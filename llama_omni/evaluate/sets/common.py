"""What sets share: tables of any kind, and sounds from files."""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llama_omni import audio
from llama_omni.errors import AudioError, InputError
from llama_omni.evaluate.records import EvalItem
from llama_omni.interfaces import Audio

LONGEST_S = 120.0


class FileSet:
    """Items whose sounds are files.

    Args:
        name: in reports.
        items: in their order.
        files: the sound of each, by id.
        notes: what a reader must know.

    Raises:
        InputError: a sound is missing; says which.
    """

    def __init__(
        self,
        name: str,
        items: Sequence[EvalItem],
        files: Mapping[str, Path],
        notes: Sequence[str] = (),
    ) -> None:
        self.name, self.items, self.notes = name, tuple(items), tuple(notes)
        self._files = dict(files)
        for item in items:
            if not self._files[item.id].is_file():
                raise InputError(f"{self._files[item.id]} must be the sound of {item.id}, got none")

    def speech(self, item: EvalItem) -> Audio:
        """Return an item's sound at 16 kHz.

        Raises:
            InputError: it cannot be read.
        """
        try:
            return audio.load(self._files[item.id], max_s=LONGEST_S)
        except AudioError as error:
            raise InputError(f"the sound of {item.id} cannot be used: {error}") from error


def read_csv(file: Path, columns: Iterable[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the rows of a CSV file with their numbers, the header being row 1.

    Raises:
        InputError: it is missing, no CSV in UTF-8, or lacks a column; says which.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            missing = [name for name in columns if name not in (reader.fieldnames or ())]
            if missing:
                raise InputError(
                    f"{file} must have the columns {', '.join(columns)}; it lacks "
                    f"{', '.join(missing)} and has {', '.join(reader.fieldnames or ()) or 'none'}"
                )
            yield from enumerate(reader, 2)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{file} must be a readable CSV file, got: {reason}") from error


def text_of(row: Mapping[str, Any], column: str, where: str) -> str:
    """Return a cell's text.

    Raises:
        InputError: it is empty.
    """
    text = str(row.get(column) or "").strip()
    if not text:
        raise InputError(f"{where}: {column} must hold a text, got nothing")
    return text
