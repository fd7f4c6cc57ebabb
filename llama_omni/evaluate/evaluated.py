"""A results folder read back, for reports and comparisons."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from llama_omni.errors import InputError
from llama_omni.evaluate.records import Condition, ReplyRow, Score, TestItem

Key = tuple[str, str]  # item and condition


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Evaluated:
    """One system's replies on one set, what was measured of them, and how they were made."""

    folder: Path
    run: Mapping[str, Any]
    items: Mapping[str, TestItem]
    questions: Mapping[str, str]  # by item: its sound, relative to the folder
    rows: Mapping[Key, ReplyRow]
    values: Mapping[str, Mapping[Key, Mapping[str, Any]]]  # by measure
    scores: tuple[Score, ...]

    @property
    def system(self) -> str:
        """What was asked."""
        return str(self.run.get("system", self.folder.name))

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """What was asked how, S2TIF first, then by chunk size, infinity last."""
        names = dict.fromkeys(condition for _, condition in self.rows)
        found = [Condition.of(name) for name in names]
        return tuple(sorted(found, key=lambda c: (c.mode != "s2tif", c.chunk_size or float("inf"))))

    def score(self, name: str, condition: str) -> Score | None:
        """Return a score; None: there is none of that name for that condition."""
        for one in self.scores:
            if (one.name, one.condition) == (name, condition):
                return one
        return None


def read_evaluated(folder: Path) -> Evaluated:
    """Read a results folder.

    Raises:
        InputError: it is none, or lacks a file, or holds what cannot be read.
    """
    run = _json(folder / "run.json")
    items: dict[str, TestItem] = {}
    questions: dict[str, str] = {}
    for line in _lines(folder / "items.jsonl"):
        item = _pick(TestItem, {**line, "references": tuple(line.get("references") or ())})
        items[item.id] = item
        questions[item.id] = str(line.get("question") or "")
    rows = {row.key: row for row in map(ReplyRow.from_json, _lines(folder / "replies.jsonl"))}
    values = {
        file.stem: {
            (line["item"], line["condition"]): line["value"]
            for line in _lines(file)
            if "item" in line and (line["item"], line["condition"]) in rows
        }
        for file in sorted((folder / "measures").glob("*.jsonl"))
    }
    scored = _json(folder / "scores.json")
    scores = tuple(_pick(Score, line) for line in scored.get("scores", ()))
    return Evaluated(
        folder=folder,
        run=run,
        items=items,
        questions=questions,
        rows={key: row for key, row in rows.items() if row.item in items},
        values=values,
        scores=scores,
    )


def _pick(kind: Any, line: Mapping[str, Any]) -> Any:
    known = {item.name for item in fields(kind)}
    return kind(**{name: value for name, value in line.items() if name in known})


def _check(file: Path) -> None:
    if not file.is_file():
        raise InputError(
            f"{file.parent} must be a results folder of `llama-omni evaluate`, "
            f"but has no {file.name}"
        )


def _json(file: Path) -> Mapping[str, Any]:
    _check(file)
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file} must be JSON, but is not: {error}") from error
    if not isinstance(found, dict):
        raise InputError(f"{file} must hold a JSON object")
    return found


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    """Read JSON lines; a last one that was cut off in the writing is left out."""
    _check(file)
    lines = file.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            found = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                return
            raise InputError(f"{file}:{number} must be JSON, but is not: {error}") from error
        if isinstance(found, dict):
            yield found
