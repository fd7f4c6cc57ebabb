"""A folder of recordings, with or without a table that says what is asked in them."""

import json
from pathlib import Path
from typing import Any

from llama_omni.errors import InputError
from llama_omni.evaluate.records import EvalItem
from llama_omni.evaluate.sets.common import FileSet, read_csv, text_of

SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")
TABLES = ("items.jsonl", "items.csv")


class Recordings(FileSet):
    """A folder with sounds, and perhaps `items.jsonl` or `items.csv`.

    The table's columns are `audio` (a file in the folder) and, as far as they are known, `id`,
    `instruction`, `reference` (several with "|" between them, or a JSON list) and `category`.
    Without a table, each sound is an item, and a text file of the same name its instruction.

    Args:
        folder: with the sounds.

    Raises:
        InputError: there is no such folder, it holds no sound, or a row is wrong; says where.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise InputError(f"{folder} must be a folder of recordings, got no folder")
        tables = [folder / name for name in TABLES if (folder / name).is_file()]
        if len(tables) > 1:
            raise InputError(f"{folder} must hold one of {', '.join(TABLES)}, got both")
        items, files = _from_table(tables[0]) if tables else _from_files(folder)
        super().__init__(folder.resolve().name, items, files)


def _from_files(folder: Path) -> tuple[list[EvalItem], dict[str, Path]]:
    sounds = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not sounds:
        raise InputError(f"{folder} must hold sounds ({', '.join(SUFFIXES)}), got none")
    items, files = [], {}
    for sound in sounds:
        if sound.stem in files:
            raise InputError(
                f"{sound} must have a name of its own, got also {files[sound.stem].name}"
            )
        said = sound.with_suffix(".txt")
        text = _text(said) if said.is_file() else ""
        items.append(EvalItem(id=sound.stem, instruction=" ".join(text.split())))
        files[sound.stem] = sound
    return items, files


def _from_table(table: Path) -> tuple[list[EvalItem], dict[str, Path]]:
    rows = _json_rows(table) if table.suffix == ".jsonl" else [*read_csv(table, ["audio"])]
    items, files = [], dict[str, Path]()
    for number, row in rows:
        where = f"{table}:{number}"
        sound = table.parent / text_of(row, "audio", where)
        name = str(row.get("id") or sound.stem)
        if name in files:
            raise InputError(f"{where}: id must be new, got {name!r} again")
        said = row.get("reference") or ()
        references = said if isinstance(said, list | tuple) else str(said).split("|")
        items.append(
            EvalItem(
                id=name,
                instruction=str(row.get("instruction") or ""),
                references=tuple(text for one in references if (text := str(one).strip())),
                category=str(row.get("category") or ""),
            )
        )
        files[name] = sound
        if not sound.is_file():
            raise InputError(f"{where}: audio must be a file in the folder, got {sound.name!r}")
    return items, files


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} must be a readable text in UTF-8, got: {error}") from error


def _json_rows(table: Path) -> list[tuple[int, dict[str, Any]]]:
    rows = []
    for number, line in enumerate(_text(table).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{table}:{number} must be a JSON object: {error}") from error
        if not isinstance(row, dict):
            raise InputError(f"{table}:{number} must be a JSON object, got {line[:40]!r}")
        rows.append((number, row))
    return rows
