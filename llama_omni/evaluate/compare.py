"""Two systems on the same items: differences with paired intervals, and whether they are chance."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from llama_omni.errors import InputError, OutputError
from llama_omni.evaluate.document import Block, Bullets, Heading, Paragraph, Table, markdown
from llama_omni.evaluate.evaluated import Evaluated, read_evaluated
from llama_omni.evaluate.intervals import Difference, paired_difference
from llama_omni.evaluate.measure_settings import MeasureSettings
from llama_omni.evaluate.measures import MEASURES
from llama_omni.evaluate.page import page
from llama_omni.evaluate.records import ReplyRow
from llama_omni.evaluate.scoring import PartsMeasure, Spec

_ENOUGH = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """One score under one condition: the second system less the first."""

    spec: Spec
    condition: str
    before: float
    after: float
    difference: Difference  # in the spec's unit

    @property
    def verdict(self) -> str:
        """Say which is better, where that is more than chance."""
        if self.difference.p >= _ENOUGH or not self.spec.better:
            return "" if self.difference.p >= _ENOUGH else "differs"
        rises = self.difference.value > 0
        return "better" if rises == (self.spec.better == "higher") else "worse"


def compare(before: Path, after: Path, output: Path, *, seed: int = 0) -> Path:
    """Compare two results folders, and write `compare.md`, `compare.html` and `compare.json`.

    Only items that both systems were asked under the same condition count, and only scores that
    were measured of both in the same way: with the same recogniser, judge or model.

    Args:
        before: the first system's.
        after: the second's.
        output: the folder to write to.
        seed: of the intervals and the test.

    Returns:
        The HTML file.

    Raises:
        InputError: a folder holds no results, the sets differ, or nothing can be compared.
        OutputError: something cannot be written.
    """
    first, second = read_evaluated(before, scored=False), read_evaluated(after, scored=False)
    shared = [item for item in first.items if first.items[item] == second.items.get(item)]
    if not shared:
        raise InputError(f"{before} and {after} must have items in common, got none")
    unlike = _unlike(first, second)
    found = [
        one
        for name in MEASURES
        if name not in unlike
        for one in _compared(name, first, second, shared, seed)
    ]  # fmt: skip
    if not found:
        raise InputError(f"{before} and {after} must have a condition in common, got none")
    title = f"{second.system} against {first.system}"
    blocks = _blocks(title, first, second, found, len(shared), unlike)
    lines = [
        {
            "score": one.spec.name,
            "condition": one.condition,
            "before": one.before,
            "after": one.after,
            **asdict(one.difference),
            "verdict": one.verdict,
        }
        for one in found
    ]
    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / "compare.md").write_text(markdown(blocks), encoding="utf-8")
        (output / "compare.html").write_text(page(title, blocks, output), encoding="utf-8")
        text = json.dumps(lines, indent=1) + "\n"
        (output / "compare.json").write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write the comparison to {output}: {error.strerror}") from error
    return output / "compare.html"


def _unlike(first: Evaluated, second: Evaluated) -> list[str]:
    """Return the measures that were made of both, with other settings."""
    return [
        name
        for name in MEASURES
        if name in first.settings
        and name in second.settings
        and first.settings[name] != second.settings[name]
    ]


def _compared(
    name: str, first: Evaluated, second: Evaluated, shared: Sequence[str], seed: int
) -> list[Compared]:
    """Compare all scores of one measure; medians have no parts to be compared by."""
    measure = MEASURES[name](MeasureSettings())
    assert isinstance(measure, PartsMeasure), "every measure is made of parts"
    found = []
    for condition in first.conditions:
        parts = [_parts(measure, one, condition.name, shared) for one in (first, second)]
        for spec in measure.specs:
            if spec.kind != "ratio":
                continue
            both = [item for item in shared if all(spec.name in one.get(item, {}) for one in parts)]
            pairs = [[one[item][spec.name] for item in both] for one in parts]
            if not both or not all(sum(below for _, below in one) for one in pairs):
                continue
            values = [sum(top for top, _ in one) / sum(below for _, below in one) for one in pairs]
            difference = paired_difference(pairs[0], pairs[1], seed=seed)
            found.append(
                Compared(
                    spec=spec,
                    condition=condition.name,
                    before=values[0] * spec.scale,
                    after=values[1] * spec.scale,
                    difference=Difference(
                        value=difference.value * spec.scale,
                        low=difference.low * spec.scale,
                        high=difference.high * spec.scale,
                        p=difference.p,
                        count=difference.count,
                    ),
                )
            )
    return found


def _parts(
    measure: PartsMeasure, found: Evaluated, condition: str, shared: Sequence[str]
) -> dict[str, Mapping[str, tuple[float, float]]]:
    """Return the parts of each item that was answered and, where it must be, measured."""
    values = found.values.get(measure.name, {})
    parts = {}
    for item in shared:
        row: ReplyRow | None = found.rows.get((item, condition))
        if row is None or not measure.applies(row):
            continue
        value = values.get(row.key)
        if value is None and measure.needs_values:
            continue
        parts[item] = measure.parts(row, found.items[item], value or {})
    return parts


def _blocks(
    title: str,
    first: Evaluated,
    second: Evaluated,
    found: Sequence[Compared],
    count: int,
    unlike: Sequence[str],
) -> list[Block]:
    rows = [
        [
            f"{one.spec.name}, {one.spec.unit}" if one.spec.unit else one.spec.name,
            one.condition,
            f"{one.before:.2f}",
            f"{one.after:.2f}",
            f"{one.difference.value:+.2f} [{one.difference.low:+.2f}, {one.difference.high:+.2f}]",
            f"{one.difference.p:.3f}",
            one.verdict,
        ]
        for one in found
    ]
    header = ["score", "how asked", first.system, second.system, "difference", "p", "verdict"]
    facts = [("First", first.system), ("Second", second.system), ("Items in common", str(count))]
    if unlike:
        said = "measured of the two with other settings; measure both again with the same"
        facts.append(("Not compared", f"{', '.join(unlike)}: {said}"))
    return [
        Heading(title, 1),
        Paragraph(_INTRODUCTION.format(count=len(found))),
        Bullets(facts),
        Table(header, rows),
    ]


_INTRODUCTION = (
    "Second less first, over the items that both were asked. In brackets: 95 % paired bootstrap "
    "intervals. p: two-sided paired permutation test, each score by itself; with {count} of them, "
    "one in twenty of those that do not differ is below .05 by chance."
)
