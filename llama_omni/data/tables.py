"""Rows of JSON, JSONL, CSV and Parquet files, one at a time, each with where it was found.

A JSON array is read piece by piece: published ones reach a gigabyte.
"""

import csv
import json
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from llama_omni.data.schema import arrow
from llama_omni.data.shards import MANIFEST
from llama_omni.errors import InputError, MissingExtraError

SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".parquet")

_CHUNK_CHARS = 1 << 20
_LONGEST_ROW = 1 << 26  # characters: a row that does not end within this is broken
_GAP = re.compile(r"[\s,]*")
_COLON = re.compile(r"\s*:\s*")
_OBJECTS = re.compile(r"\[(?=\s*\{)")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(#[\w.-]+)?")
_NO_TABLES = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json")  # of the hub
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
_ORDER = {"train": 0, "validation": 1, "test": 2}
_NO_WORD = re.compile(r"[-._ 0-9]+")
_SHARD = re.compile(r"-\d{5,}-of-\d{5,}.*")


class Located(NamedTuple):
    """A row and where it was found."""

    where: str  # "questions.jsonl, line 3"
    row: dict[str, Any]
    split: str | None = None  # that the name of its file, or of the hub's split, tells
    folder: Path = Path()  # of its file: sound may lie beside it


def read_rows(path: str, *, split: str | None = None) -> Iterator[Located]:
    """Yield the rows of a file, of a folder of files, or of the hub.

    Args:
        path: The file or folder; what is neither but reads as OWNER/NAME is a data set of the hub
            (OWNER/NAME#CONFIG names one of its configurations).
        split: Which split of a folder or of the hub; none: all of them, as `files_of` orders them.

    Raises:
        InputError: It cannot be read; names the file and the line.
        MissingExtraError: A data set of the hub needs the package `datasets`.
    """
    place = Path(path)
    _check_written(place)
    files = files_of(place, split)
    if place.is_dir() and not files:
        found = sorted(
            {_told_split(file.relative_to(place)) or "train" for file in files_of(place)}
        )
        if found:
            raise InputError(
                f"{place} must hold files of the split {split!r} (hub_split), found "
                f"{', '.join(found)}"
            )
        raise InputError(f"{place} must hold {', '.join(SUFFIXES)} files, found none")
    if files:
        for file in files:
            told = _told_split(file.relative_to(place)) if place.is_dir() else None
            for located in _read_file(file):
                yield located._replace(split=told, folder=file.parent)
    elif _HUB_ID.fullmatch(path):
        yield from _read_hub(path, split)
    else:
        raise InputError(f"{place} must be a file, a folder or a hub id, found nothing there")


def _check_written(place: Path) -> None:
    """Refuse a data set of our own, whose manifest would be taken for a table."""
    try:
        manifest = json.loads((place / MANIFEST).read_text("utf-8"))
    except (OSError, ValueError):
        return
    if isinstance(manifest, dict) and "shards" in manifest:
        raise InputError(
            f"{place} must be tables, got a finished data set; its shards are tables and lie in "
            f"{place / 'data'}, with the columns question, answer, split, question_audio and "
            "answer_audio"
        )


def files_of(place: Path, split: str | None = None) -> list[Path]:
    """Return the files that are read for a path: those of a folder, or the file itself.

    Those of a folder come in the order of their names, training before other splits: of two equal
    questions the first is kept. A file whose name tells no split is for training. What begins with
    a dot or an underscore, and what `datasets` writes about a data set, are left out.

    Args:
        place: A file, a folder, or nothing that is there.
        split: Of a folder: `train`, or as files are called, such as `train_sft`; none: all.
    """
    if not place.is_dir():
        return [place] if place.exists() else []
    found = [
        file
        for file in sorted(place.rglob("*"))
        if file.suffix.lower() in SUFFIXES
        and file.name not in _NO_TABLES
        and not any(part.startswith((".", "_")) for part in file.relative_to(place).parts)
    ]
    told = {file: _told_split(file.relative_to(place)) or "train" for file in found}
    if split is not None:
        found = [file for file in found if split in (told[file], _SHARD.sub("", file.stem))]
    return sorted(found, key=lambda file: _ORDER[told[file]])


def split_of(name: str) -> str | None:
    """Return the split that is a word of a name: train, validation or test; None where none is.

    The words are those of `datasets`: `data/dev-00000-of-00001.parquet` is of the validation.
    """
    words = (word for word in _NO_WORD.split(name.lower()) if word in _SPLITS)
    return next((_SPLITS[word] for word in words), None)


def _told_split(name: Path) -> str | None:
    """Return the split of a folder's file: by its own name, or by that of the nearest folder."""
    told = (split_of(part) for part in (name.stem, *reversed(name.parent.parts)))
    return next((split for split in told if split is not None), None)


def _read_file(file: Path) -> Iterator[Located]:
    suffix = file.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{file} must end with {', '.join(SUFFIXES)}, got suffix {suffix!r}")
    try:
        if suffix == ".parquet":
            yield from _read_parquet(file)
        elif suffix in (".csv", ".tsv"):
            yield from _read_csv(file)
        elif suffix == ".json" and (start := _begin_of_array(file)):
            yield from _read_array(file, start)
        else:
            yield from _read_lines(file)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{file} must be UTF-8 text, got byte {error.object[error.start]:#x}"
        ) from error
    except OSError as error:
        raise InputError(f"{file} must be readable, got: {error.strerror or error}") from error


def _begin_of_array(file: Path) -> int:
    """Return where the items of a list begin, 0 where there is an object a line.

    The list is the whole, or lies under "data" in the only object of the file.

    Raises:
        InputError: It is one object of another form.
    """
    with file.open(encoding="utf-8-sig") as source:
        skipped = 0
        while (line := source.readline(_LONGEST_ROW)).isspace():
            skipped += len(line)
        more = source.read(_CHUNK_CHARS)
    text = line + more
    if text.lstrip().startswith("["):
        return skipped + text.index("[") + 1
    try:
        alone = bool(json.loads(line or "{}")) and not more.strip()
    except (ValueError, RecursionError):
        alone = None  # the line goes on in the next one, or is broken
    begin = _begin_of_data(text) if alone is not False else 0
    if alone is None and not begin:
        raise InputError(
            f"{file} must be a list of objects, or one object a line, got {line.strip()[:60]!r} "
            "as its first line"
        )
    return skipped + begin if begin else 0


def _begin_of_data(text: str) -> int:
    """Return where the items of an object's list "data" of objects begin, 0 where it has none."""
    decoder, position = json.JSONDecoder(), text.find("{") + 1
    try:
        while position:
            key, position = decoder.raw_decode(text, _skipped(_GAP, text, position))
            position = _skipped(_COLON, text, position)
            if key == "data" and (begin := _OBJECTS.match(text, position)):
                return begin.end()
            _, position = decoder.raw_decode(text, position)
    except (ValueError, RecursionError):
        return 0
    return 0


def _skipped(pattern: re.Pattern[str], text: str, position: int) -> int:
    found = pattern.match(text, position)
    return found.end() if found else position


def _read_array(file: Path, start: int) -> Iterator[Located]:
    """Yield the items of a list, each decoded when it is reached.

    Args:
        file: Of JSON.
        start: The character after the list's bracket.
    """
    decoder, line, number = json.JSONDecoder(), 1, 0
    with file.open(encoding="utf-8-sig") as source:
        position = start
        text = source.read(start + _CHUNK_CHARS)
        opened = "[" if text.lstrip().startswith("[") else '{"data": ['
        line += text.count("\n", 0, position)
        while True:
            start = position
            position = _skipped(_GAP, text, position)
            line += text.count("\n", start, position)
            try:
                if text[position : position + 1] == "]":
                    json.loads(opened + text[position:] + source.read())  # what follows ends it
                    return
                row, end = decoder.raw_decode(text, position)
            except RecursionError as error:
                raise InputError(_broken(file, line, text[position:], error)) from error
            except ValueError as error:  # broken, or cut where the chunk ends
                more = source.read(max(_CHUNK_CHARS, len(text) - position))
                if not more or len(text) - position > _LONGEST_ROW:
                    raise InputError(_broken(file, line, text[position:], error)) from error
                text, position = text[position:] + more, 0
                continue
            yield _located(file, f"item {number}, line {line}", row)
            line += text.count("\n", position, end)
            position, number = end, number + 1


def _read_lines(file: Path) -> Iterator[Located]:
    with file.open(encoding="utf-8-sig") as source:
        for number, text in enumerate(source, start=1):
            if not text.strip():
                continue
            text = text.strip()  # an error at the end would be of the next line
            try:
                row = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise InputError(_broken(file, number, text, error)) from error
            yield _located(file, f"line {number}", row)


def _broken(file: Path, line: int, text: str, error: ValueError | RecursionError) -> str:
    found = text.strip()[:60]
    if isinstance(error, json.JSONDecodeError):
        line += error.lineno - 1 if error.doc is text else 0
        reason = error.msg
    elif isinstance(error, RecursionError):
        reason = "too many brackets within another"
    else:
        reason = str(error)
    return f"{file}, line {line} must be JSON, got: {reason} in {found!r}"


def _read_csv(file: Path) -> Iterator[Located]:
    """Yield the rows below a header.

    Its separator is the usual one where that gives several columns, else what gives most.
    """
    with file.open(encoding="utf-8-sig", newline="") as source:
        header = source.readline()  # not read twice: the file may be a pipe
        usual = "\t" if file.suffix.lower() == ".tsv" else ","
        try:
            counts = {s: len(next(csv.reader([header], delimiter=s), [])) for s in ",;\t"}
            best = usual if counts[usual] > 1 else max(counts, key=lambda sign: counts[sign])
            reader = csv.DictReader(chain([header], source), delimiter=best)
        except csv.Error as error:
            raise InputError(f"{file}, line 1 must be CSV, got: {error}") from error
        try:
            for row in reader:
                if None in row or None in row.values():
                    raise InputError(
                        f"{file}, line {reader.line_num} must have {len(reader.fieldnames or ())} "
                        "fields as its header, got another number"
                    )
                yield Located(f"{file}, line {reader.line_num}", dict(row))
        except csv.Error as error:
            raise InputError(f"{file}, line {reader.line_num} must be CSV, got: {error}") from error


def _read_parquet(file: Path) -> Iterator[Located]:
    try:
        with arrow("pyarrow.parquet").ParquetFile(file) as source:
            number = 0
            for batch in source.iter_batches(batch_size=256, use_threads=False):
                for row in batch.to_pylist():
                    yield Located(f"{file}, row {number}", row)
                    number += 1
    except arrow().ArrowException as error:
        raise InputError(f"{file} must be a whole Parquet file, got: {error}") from error


def _read_hub(path: str, split: str | None) -> Iterator[Located]:
    try:
        import datasets
        from datasets.exceptions import DatasetsError
    except ImportError as error:
        raise MissingExtraError("datasets", "data", "a data set of the hub") from error
    name, _, config = path.partition("#")
    try:
        found: Any = datasets.load_dataset(name, config or None, split=split, streaming=True)
        several = found if split is None else {split: found}
        for part in sorted(several, key=lambda part: _ORDER[split_of(part) or "train"]):
            of_split = "" if split is not None else f", split {part}"
            rows = several[part]
            if getattr(rows, "features", None):  # known ones alone can be left as they are stored
                rows = rows.decode(False)  # sound
            for number, row in enumerate(rows):
                yield Located(f"{path}{of_split}, row {number}", row, split_of(part))
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"{path} must be a file, a folder or a data set of the hub, got: {reason}"
        ) from error


def _located(file: Path, place: str, row: Any) -> Located:
    if not isinstance(row, dict):
        raise InputError(f"{file}, {place} must be an object {{...}}, got {type(row).__name__}")
    return Located(f"{file}, {place}", row)
