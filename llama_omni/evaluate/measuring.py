"""Measure the replies of a results folder; what was measured before is not measured again."""

import logging
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llama_omni.errors import LlamaOmniError
from llama_omni.evaluate.evaluated import Evaluated, read_evaluated, reply_digest
from llama_omni.evaluate.records import EvalItem, Measure, ReplyRow, Score
from llama_omni.evaluate.results import (
    SCORES,
    add_line,
    digest,
    read_lines,
    read_object,
    write_object,
)

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
    replies = digest([row.to_json() for row in found.rows.values()])
    before = _kept(folder, replies)
    names = {one.name for one in measures}
    lines = [line for line in before.get("scores", ()) if line.get("measure") not in names]
    # What each measure measured with: only values of the same settings can be compared.
    settings = {**before.get("settings", {})}
    settings |= {one.name: dict(one.settings) for one in measures if one.missing is None}
    for one in measures:
        lines += [{**asdict(score), "measure": one.name} for score in _scores(
            found, one, seed, progress
        )]  # fmt: skip
    written = {"replies": replies, "settings": settings, "scores": lines}
    write_object(folder / SCORES, written)
    return [*read_evaluated(folder).scores]


def _kept(folder: Path, replies: str) -> dict[str, Any]:
    """Return what was measured of the same replies before."""
    file = folder / SCORES
    before = read_object(file) if file.is_file() else {}
    return before if before.get("replies") == replies else {}


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
    """Measure what was not measured yet with these settings, from these replies.

    Values are written in the order of the replies, each as soon as those before it are: a kill
    loses what is under way, at most `one.parallel` replies.
    """
    file = found.folder / FOLDER / f"{one.name}.jsonl"
    how = digest(dict(one.settings))
    last: dict[tuple[str, str], str] = {}  # the line that readers of the file take
    before: dict[tuple[str, str, str], dict[str, Any]] = {}
    for line in read_lines(file, mend=True):
        key = line["item"], line["condition"]
        last[key] = line["of"]
        before[*key, line["of"]] = line["value"]
    rows = [row for row in found.rows.values() if one.applies(row)]
    marks = [
        digest([how, reply_digest(row, found.items[row.item])]) for row in rows
    ]  # fmt: skip
    wanted = [
        row for row, of in zip(rows, marks, strict=True) if (*row.key, of) not in before
    ]  # fmt: skip
    made = _made(found, one, wanted)
    known: list[Known] = []
    try:
        for done, (row, of) in enumerate(zip(rows, marks, strict=True), 1):
            value = before.get((*row.key, of))
            value = next(made) if value is None else value
            if value and last.get(row.key) != of:
                line = {"item": row.item, "condition": row.condition, "of": of, "with": how}
                reply = reply_digest(row, found.items[row.item])
                add_line(file, {**line, "reply": reply, "value": value})
            known.append((row, found.items[row.item], value))
            progress(one.name, done, len(rows))
    finally:
        made.close()
    return known


def _made(
    found: Evaluated, one: Measure, rows: Sequence[ReplyRow]
) -> Generator[dict[str, Any], None, None]:
    """Yield the values of replies in their order, several measured at a time where that helps."""

    def value(row: ReplyRow) -> dict[str, Any]:
        return one.value(row, found.items[row.item], found.folder)

    if one.parallel < 2:
        yield from map(value, rows)
        return
    running: deque[Future[dict[str, Any]]] = deque()
    with ThreadPoolExecutor(one.parallel, "measuring") as threads:
        try:
            for row in rows:
                running.append(threads.submit(value, row))
                if len(running) >= one.parallel:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()
