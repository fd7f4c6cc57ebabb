"""The parts of a report that show single replies: the case study (Table 4) and what went wrong."""

from collections.abc import Mapping, Sequence
from os.path import relpath
from pathlib import Path
from typing import Any

from llama_omni.evaluate.document import Block, Bullets, Cell, Paragraph, Sound, Table
from llama_omni.evaluate.evaluated import Evaluated
from llama_omni.evaluate.records import UNASKED, EvalItem, ReplyRow
from llama_omni.evaluate.report_tables import offline_condition

_WORST = 10  # replies whose speech was recognised worst
_SHOWN = 25  # of each kind of failure: sounds are inside the page, which must stay small
_KINDS = (
    "not asked",
    "no reply",
    "no text",
    "no sound",
    "cut",
    "wrong answer",
    "wrong in speech",
    "ill recognised",
)  # worst first


def case_study(systems: Sequence[Evaluated], *, count: int, output: Path) -> Table:
    """Table 4: items evenly spread over the set, what each system said, and how it sounds.

    Args:
        systems: on the same set.
        count: how many items.
        output: the report's folder, from which sounds are linked.
    """
    first = systems[0]
    ids = _spread(
        [item for item in first.items if all(item in one.items for one in systems)], count
    )
    rows: list[list[Cell]] = []
    for item in ids:
        row: list[Cell] = [first.items[item].instruction or item, _question(first, item, output)]
        for found in systems:
            reply = _spoken(found, item)
            row += [_said(reply), _sound(found, reply, output)]
        rows.append(row)
    header = ["instruction", "asked"]
    for found in systems:
        header += [found.system, "spoken"]
    return Table(header, rows, words=True)


def failures(found: Evaluated, output: Path) -> list[Block]:
    """What went wrong, worst first: how often, and the first of each kind with their sounds."""
    rows: list[tuple[str, ReplyRow, str]] = []
    for row in found.rows.values():
        wrong = _wrong(found, row)
        if wrong:
            rows.append((wrong, row, ""))
    named = {row.key for _, row, _ in rows}
    heard = found.values.get("asr", {})
    ranked = sorted(heard, key=lambda key: (-_errors(heard[key]), key))
    for key in ranked[:_WORST]:
        if _errors(heard[key]) > 0 and key not in named:
            said = f"{found.rows[key].text} - recognised as: {heard[key].get('heard', '')}"
            rows.append(("ill recognised", found.rows[key], said))
    if not rows:
        return [Paragraph("None was found.")]
    kinds = {kind: [one for one in rows if one[0] == kind] for kind in _KINDS}
    shown = [one for ones in kinds.values() for one in ones[:_SHOWN]]
    cells: list[list[Cell]] = [
        [
            kind,
            row.condition,
            _instruction(found.items[row.item]),
            note or _said(row),
            _sound(found, row, output),
        ]
        for kind, row, note in shown
    ]
    header = ["what", "how asked", "instruction", "reply", "spoken"]
    counts: list[tuple[str, str]] = []
    for kind, ones in kinds.items():
        if ones:
            less = f", the first {_SHOWN} below" if len(ones) > _SHOWN else ""
            of = f"the {_WORST} worst" if kind == _KINDS[-1] else f"of {len(found.rows)} replies"
            counts.append((kind, f"{len(ones)} ({of}){less}"))
    return [Bullets(counts), Table(header, cells, words=True)]


def _wrong(found: Evaluated, row: ReplyRow) -> str:
    """Say in a word or two what is wrong with a reply; "" where nothing is known to be."""
    if row.error is not None:
        return "not asked" if row.finish_reason == UNASKED else "no reply"
    if not row.text.strip():
        return "no text"
    if row.condition != "s2tif" and row.audio is None:
        return "no sound"
    if row.finish_reason == "length":
        return "cut"
    right: Mapping[str, Any] = found.values.get("accuracy", {}).get(row.key, {})
    if right.get("text") is False:
        return "wrong answer"
    return "wrong in speech" if right.get("speech") is False else ""


def _errors(value: Mapping[str, Any]) -> float:
    """Return the word error rate of one reply, from its counts."""
    errors, words = value.get("word_errors", 0), value.get("words", 0)
    return errors / words if words else 0.0


def _spread(ids: Sequence[str], count: int) -> list[str]:
    if len(ids) <= count:
        return [*ids]
    return [ids[round(place * (len(ids) - 1) / max(1, count - 1))] for place in range(count)]


def _spoken(found: Evaluated, item: str) -> ReplyRow | None:
    """Return an item's reply as Table 1 speaks of it, spoken if there is one."""
    for mode in ("s2sif", "s2tif"):
        condition = offline_condition(found, mode)
        row = found.rows.get((item, condition.name)) if condition else None
        if row is not None:
            return row
    return None


def _instruction(item: EvalItem) -> str:
    return item.instruction or item.id


def _said(row: ReplyRow | None) -> str:
    if row is None:
        return "(not asked)"
    return f"({row.error})" if row.error is not None else row.text or "(nothing)"


def _sound(found: Evaluated, row: ReplyRow | None, output: Path) -> Cell:
    if row is None or row.audio is None:
        return "-"
    return Sound(_link(found.folder / row.audio, output), f"{found.system} answers {row.item}")


def _question(found: Evaluated, item: str, output: Path) -> Cell:
    file = found.questions.get(item)
    return Sound(_link(found.folder / file, output), f"question {item}") if file else "-"


def _link(file: Path, output: Path) -> str:
    return Path(relpath(file, output)).as_posix()
