"""A results folder read back, for reports and comparisons."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from llama_omni.errors import InputError
from llama_omni.evaluate.records import Condition, EvalItem, ReplyRow, Score
from llama_omni.evaluate.results import (
    ITEMS,
    REPLIES,
    SCORES,
    digest,
    read_lines,
    read_object,
    read_run,
)

Key = tuple[str, str]  # item and condition


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Evaluated:
    """One system's replies on one set, what was measured of them, and how they were made."""

    folder: Path
    run: Mapping[str, Any]
    items: Mapping[str, EvalItem]
    questions: Mapping[str, str]  # by item: its sound, relative to the folder
    rows: Mapping[Key, ReplyRow]
    values: Mapping[str, Mapping[Key, Mapping[str, Any]]]  # by measure, of these replies alone
    settings: Mapping[str, Mapping[str, Any]]  # what each measure measured with
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


def reply_digest(row: ReplyRow, item: EvalItem) -> str:
    """Return the hash of all that a value depends on, but for its measure's settings."""
    return digest([row.to_json(), asdict(item)])


def read_evaluated(folder: Path, *, scored: bool = True) -> Evaluated:
    """Read a results folder.

    Args:
        folder: of results.
        scored: it must have scores.

    Raises:
        InputError: it is none, or lacks a file, or holds what cannot be read.
    """
    run = read_run(folder)
    items: dict[str, EvalItem] = {}
    questions: dict[str, str] = {}
    for line in read_lines(folder / ITEMS):
        item = _pick(EvalItem, {**line, "references": tuple(line.get("references") or ())})
        items[item.id] = item
        questions[item.id] = str(line.get("question") or "")
    found = {row.key: row for row in map(ReplyRow.from_json, read_lines(folder / REPLIES))}
    names = dict.fromkeys(row.condition for row in found.values())
    # In the items' order, in whichever order they came.
    rows = {
        (item, name): found[item, name]
        for name in sorted(names)
        for item in items
        if (item, name) in found
    }
    there = (folder / SCORES).is_file()
    if scored and not there:
        raise InputError(
            f"{folder} has not been measured yet: `llama-omni evaluate measure {folder}` does that"
        )
    measured = read_object(folder / SCORES) if there else {}
    settings = measured.get("settings", {})
    replies = {key: reply_digest(row, items[key[0]]) for key, row in rows.items()}
    values = {
        file.stem: _values(file, replies, settings.get(file.stem))
        for file in sorted((folder / "measures").glob("*.jsonl"))
    }
    scores = tuple(_pick(Score, line) for line in measured.get("scores", ()) if scored)
    return Evaluated(
        folder=folder,
        run=run,
        items=items,
        questions=questions,
        rows=rows,
        values=values,
        settings=settings,
        scores=scores,
    )


def _values(
    file: Path, replies: Mapping[Key, str], settings: Mapping[str, Any] | None
) -> dict[Key, Mapping[str, Any]]:
    """Read what a measure last said of replies that are still the same, by its last settings."""
    how = None if settings is None else digest(settings)
    found: dict[Key, Mapping[str, Any]] = {}
    for line in read_lines(file):
        key = str(line.get("item")), str(line.get("condition"))
        if key not in replies or line.get("reply", replies[key]) != replies[key]:
            continue
        if how is None or line.get("with", how) == how:
            found[key] = line["value"]
    return found


def _pick(kind: Any, line: Mapping[str, Any]) -> Any:
    known = {item.name for item in fields(kind)}
    return kind(**{name: value for name, value in line.items() if name in known})
