"""The parts of a report that show single replies: the case study (Table 4) and what went wrong."""

import shutil
from collections.abc import Mapping, Sequence
from os.path import relpath
from pathlib import Path
from typing import Any

from llama_omni.evaluate.document import Block, Bullets, Cell, Paragraph, Sound, Table
from llama_omni.evaluate.evaluated import Evaluated, Key
from llama_omni.evaluate.records import UNASKED, EvalItem, ReplyRow
from llama_omni.evaluate.report_tables import offline_condition

SOUNDS = "sounds"  # folder of a report that is not beside its results
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
    """What went wrong, worst first: how often, and the first items of each kind with a sound.

    One item and kind is a row, whichever conditions it went wrong under; last come the replies
    whose speech was recognised worst.
    """
    wrong: dict[tuple[str, str], list[ReplyRow]] = {}
    for condition in found.conditions:
        for item in found.items:
            row = found.rows.get((item, condition.name))
            if row is not None and (kind := _wrong(found, row)):
                wrong.setdefault((kind, item), []).append(row)
    named = {row.key for replies in wrong.values() for row in replies}
    heard = {key: said for key, said in _worst_heard(found) if key not in named}
    for key in heard:
        wrong[_KINDS[-1], " ".join(key)] = [found.rows[key]]
    if not wrong:
        return [Paragraph("None was found.")]
    counts: list[tuple[str, str]] = []
    cells: list[list[Cell]] = []
    for kind in _KINDS:
        ones = [replies for (name, _), replies in wrong.items() if name == kind]
        if not ones:
            continue
        count = sum(map(len, ones))
        of = f"the {_WORST} worst" if kind == _KINDS[-1] else f"of {len(found.rows)} replies"
        less = f", the first {_SHOWN} of {len(ones)} items below" if len(ones) > _SHOWN else ""
        counts.append((kind, f"{count} ({of}){less}"))
        for replies in ones[:_SHOWN]:
            last = replies[-1]
            said = _said(last)
            if last.key in heard:
                said += f" - recognised as: {heard[last.key]}"
            names = ", ".join(row.condition for row in replies)
            asked = _instruction(found.items[last.item])
            cells.append([kind, names, asked, said, _sound(found, last, output)])
    header = ["what", "how asked", "instruction", "reply", "spoken"]
    return [Bullets(counts), Table(header, cells, words=True)]


def _worst_heard(found: Evaluated) -> list[tuple[Key, str]]:
    heard = found.values.get("asr", {})
    ranked = sorted(heard, key=lambda key: (-_errors(heard[key]), key))[:_WORST]
    return [(key, str(heard[key].get("heard", ""))) for key in ranked if _errors(heard[key]) > 0]


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
    return Sound(_link(found, row.audio, output), f"{found.system} answers {row.item}")


def _question(found: Evaluated, item: str, output: Path) -> Cell:
    name = found.questions.get(item)
    return Sound(_link(found, name, output), f"question {item}") if name else "-"


def _link(found: Evaluated, name: str, output: Path) -> str:
    """Return a link to a sound; a report elsewhere gets a copy, so that it can be moved."""
    file = found.folder / name
    if output.resolve() != found.folder.resolve() and file.is_file():
        copy = output / SOUNDS / f"{found.folder.resolve().name}-{name.replace('/', '-')}"
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
        file = copy
    return Path(relpath(file, output)).as_posix()
