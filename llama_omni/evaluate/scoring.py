"""From what is known of each reply to the scores of all: means, rates, medians, with intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from llama_omni.evaluate.intervals import quantile_interval, ratio, ratio_interval
from llama_omni.evaluate.records import EvalItem, ReplyRow, Score

Known = tuple[ReplyRow, EvalItem, Mapping[str, Any]]  # a reply, its item, its `value`
Parts = Mapping[str, tuple[float, float]]

_QUANTILES = {"median": 0.5, "p95": 0.95}


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """One score: how the parts of all items become a number."""

    name: str
    unit: str = ""
    better: Literal["higher", "lower", ""] = ""
    kind: Literal["ratio", "median", "p95"] = "ratio"  # a mean is a ratio whose divisors are 1
    of: str = ""  # whose parts; "": its own
    scale: float = 1.0  # 100 for per cent, 1000 for milliseconds

    @property
    def part(self) -> str:
        """The name of the parts that it is made of."""
        return self.of or self.name


def score(spec: Spec, condition: str, parts: Sequence[tuple[float, float]], *, seed: int) -> Score:
    """Return one score of the parts that its items have; of no items, a score without value."""
    blank = Score(name=spec.name, condition=condition, unit=spec.unit, better=spec.better)
    value: float | None
    interval: tuple[float, float] | None
    if not parts:
        return replace(blank, absent="no reply has anything to measure it by")
    if spec.kind == "ratio":
        value, interval = ratio(parts), ratio_interval(parts, seed=seed)
    else:
        values = [top / below for top, below in parts if below]
        if not values:
            return replace(blank, absent="no reply has anything to measure it by")
        q = _QUANTILES[spec.kind]
        value, interval = float(np.quantile(values, q)), quantile_interval(values, q, seed=seed)
    if len(parts) < 2:  # one item tells nothing of others
        interval = None
    if value is None:
        return replace(blank, absent="no reply has anything to divide by")
    low, high = (None, None) if interval is None else (end * spec.scale for end in interval)
    return replace(
        blank,
        value=value * spec.scale,
        low=low,
        high=high,
        count=len(parts),
    )


class PartsMeasure:
    """A measure whose scores are made of parts; a subclass gives `name`, `specs` and `parts`."""

    name = ""
    specs: Sequence[Spec] = ()
    needs_values = True  # false: all it needs is in the reply's own line
    parallel = 1  # replies measured at a time, from as many threads

    @property
    def settings(self) -> Mapping[str, Any]:
        """What its values depend on beside the reply."""
        return {}

    @property
    def missing(self) -> str | None:
        """Why it cannot be measured here; None: it can be."""
        return None

    def applies(self, row: ReplyRow) -> bool:
        """Whether it says anything of a reply."""
        return row.error is None

    def value(self, row: ReplyRow, item: EvalItem, folder: Path) -> dict[str, Any]:  # noqa: ARG002
        """Measure one reply; what the reply's own line holds needs no value."""
        return {}

    def parts(self, row: ReplyRow, item: EvalItem, value: Mapping[str, Any]) -> Parts:
        """Return by score the numerator and the denominator that this reply adds."""
        raise NotImplementedError

    def scores(self, rows: Sequence[Known], *, seed: int) -> list[Score]:
        """Return the scores of one condition."""
        condition = rows[0][0].condition if rows else ""
        found = [self.parts(*row) for row in rows]
        return [
            score(
                spec,
                condition,
                [parts[spec.part] for parts in found if spec.part in parts],
                seed=seed,
            )
            for spec in self.specs
            if any(spec.part in parts for parts in found)
        ]
