"""Rows that survive: one JSON object a line, each under a key, written once."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llama_omni.errors import InputError, OutputError

Row = dict[str, Any]


class Journal:
    """Rows by key, on disk as soon as they are added; a line cut by a crash is dropped.

    Args:
        path: a JSONL file; it and its folder are made with the first row.

    Raises:
        InputError: the file holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: dict[str, Row] = {}
        data = path.read_bytes() if path.exists() else b""
        self._whole = data.rfind(b"\n") + 1  # bytes; what follows was being written
        for number, line in enumerate(data[: self._whole].splitlines(), start=1):
            try:
                row = json.loads(line)
                self._rows[row["key"]] = row
            except (ValueError, TypeError, KeyError) as error:
                raise InputError(
                    f"{path}, line {number} must be a row of this measurement, got "
                    f"{line[:40]!r}; delete the file to begin again"
                ) from error

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def __getitem__(self, key: str) -> Row:
        return self._rows[key]

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows.values())

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, key: str, row: Row) -> None:
        """Keep one row more.

        Raises:
            OutputError: it cannot be written.
        """
        entry = {"key": key, **row}
        line = json.dumps(entry, ensure_ascii=False).encode() + b"\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.truncate(self._whole)
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(f"{self.path} must be writable, got {error.strerror}") from error
        self._whole += len(line)
        self._rows[key] = entry
