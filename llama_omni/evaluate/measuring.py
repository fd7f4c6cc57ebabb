"""Measure the replies of a results folder; what was measured before is not measured again."""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llama_omni.errors import LlamaOmniError
from llama_omni.evaluate.evaluated import Evaluated, read_evaluated
from llama_omni.evaluate.records import EvalItem, Measure, ReplyRow, Score
from llama_omni.evaluate.results import SCORES, add_line, read_lines, read_object, write_object

logger = logging.getLogger(__name__)

FOLDER = "measures"

Progress = Callable[[str, int, int], None]  # which measure, how many of how many
Known = tuple[ReplyRow, EvalItem, dict[str, Any]]


def measure(
    folder: Path,
    measures: Sequence[Measure],
    *,
    seed: int = 0,
    progress: Progress = lambda name, done, of: None,  # noqa: ARG005
) -> list[Score]:
    """Measure all replies and write `scores.json`.

    Scores of other measures, from before, are kept while the replies are the same.

    Args:
        folder: of results.
        measures: which; one in which something is missing is written down as absent, and one that
            fails half-way keeps what it has and is written down as absent too.
        seed: of the intervals.
        progress: told after each reply.

    Returns:
        All scores.

    Raises:
        InputError: the folder holds no results.
        OutputError: it cannot be written.
    """
    found = read_evaluated(folder, scored=False)
    replies = _hash([row.to_json() for row in found.rows.values()])
    lines = _kept(folder, replies, {one.name for one in measures})
    for one in measures:
        lines += [{**asdict(score), "measure": one.name} for score in _scores(
            found, one, seed, progress
        )]  # fmt: skip
    write_object(folder / SCORES, {"replies": replies, "scores": lines})
    return [*read_evaluated(folder).scores]


def _kept(folder: Path, replies: str, measured: set[str]) -> list[dict[str, Any]]:
    """Return the lines of measures that are not made now."""
    file = folder / SCORES
    if not file.is_file():
        return []
    before = read_object(file)
    if before.get("replies") != replies:
        return []
    return [line for line in before.get("scores", ()) if line.get("measure") not in measured]


def _scores(found: Evaluated, one: Measure, seed: int, progress: Progress) -> list[Score]:
    if one.missing is not None:
        return [Score(name=one.name, condition="", absent=one.missing)]
    try:
        known = _values(found, one, progress)
    except LlamaOmniError as error:
        logger.warning("measuring failed measure=%s: %s", one.name, error)
        why = f"it failed ({error}); what was measured is kept, measure again to go on"
        return [Score(name=one.name, condition="", absent=why)]
    scores: list[Score] = []
    for condition in found.conditions:
        rows = [row for row in known if row[0].condition == condition.name]
        if rows:
            scores += one.scores(rows, seed=seed)
    return scores


def _values(found: Evaluated, one: Measure, progress: Progress) -> list[Known]:
    """Measure what was not measured yet with these settings, from these replies."""
    file = found.folder / FOLDER / f"{one.name}.jsonl"
    settings = _hash(dict(one.settings))
    before = {
        (line["item"], line["condition"], line["of"]): line["value"]
        for line in read_lines(file, mend=True)
    }
    rows = [row for row in found.rows.values() if one.applies(row)]
    known: list[Known] = []
    for done, row in enumerate(rows, 1):
        item = found.items[row.item]
        key = (*row.key, _hash([settings, row.to_json(), asdict(item)]))
        if key in before:
            value = before[key]
        else:
            value = one.value(row, item, found.folder)
            if value:
                line = {"item": row.item, "condition": row.condition, "of": key[2], "value": value}
                add_line(file, line)
        known.append((row, item, value))
        progress(one.name, done, len(rows))
    return known


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
