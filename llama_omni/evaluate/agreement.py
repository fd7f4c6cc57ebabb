"""How well a judge agrees with us: its grades of a shipped set of replies against our own.

Eight instructions with five replies each. Within an instruction each grade from 1 to 5 occurs
once for content and once for style, and the two are not correlated over the set, so that a judge
that takes the one for the other, or likes long replies, is seen.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_omni.errors import InputError, MissingExtraError
from llama_omni.evaluate.judge import ASPECTS, HIGHEST, LOWEST, PROMPTS, Grades, Judge

PAIRS = PROMPTS / "graded_pairs.jsonl"
# A judge below one of these is called weak. From 0.61 on, agreement is "substantial" in Landis and
# Koch's reading of kappa (1977); the others are ours.
MIN_KAPPA, MIN_ORDER, MAX_UNJUDGED = 0.61, 0.8, 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class GradedPair:
    """An instruction, a reply to it, and the grades that it should get."""

    id: str
    instruction: str
    reply: str
    content: int
    style: int
    score: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """A judge's grades of one aspect beside the given ones.

    A reply's grade is the mean of its samples; `exact`, `within_one` and `kappa` round it, halves
    up.
    """

    aspect: str
    count: int  # replies with a grade
    exact: float | None = None  # share of equal grades
    within_one: float | None = None
    kappa: float | None = None  # quadratic weights; None: all grades are one
    spearman: float | None = None
    kendall: float | None = None  # tau-b
    order: float | None = None  # share of pairs of one instruction in the right order; ties half
    bias: float | None = None  # mean of the judge's grades less the given
    spread: float | None = None  # mean standard deviation of a reply's samples

    @property
    def weak(self) -> str | None:
        """What is too low; None: nothing is."""
        found = []
        if self.kappa is None or self.kappa < MIN_KAPPA:
            found.append(f"kappa {_text(self.kappa)} is below {MIN_KAPPA}")
        if self.order is None or self.order < MIN_ORDER:
            found.append(f"order {_text(self.order)} is below {MIN_ORDER}")
        return " and ".join(found) or None


@dataclass(frozen=True, kw_only=True, slots=True)
class AgreementReport:
    """What came of a check of a judge."""

    pairs: Sequence[GradedPair]
    grades: Mapping[str, Grades]  # by the pair's id
    aspects: Sequence[Agreement]

    @property
    def unjudged(self) -> float:
        """The share of samples that hold no grade."""
        asked = sum(found.asked for found in self.grades.values())
        return sum(len(found.unjudged) for found in self.grades.values()) / max(asked, 1)

    @property
    def weak(self) -> list[str]:
        """Why the judge should not be relied on; none: it may be."""
        found = [f"{one.aspect}: {one.weak}" for one in self.aspects if one.weak]
        if self.unjudged > MAX_UNJUDGED:
            found.append(f"{self.unjudged:.0%} of its answers hold no grade")
        return found

    def worst(self, count: int = 5) -> list[tuple[GradedPair, str, float]]:
        """Return the largest disagreements: the pair, the aspect, and the judge's grade."""
        found = [
            (pair, aspect, mean)
            for pair in self.pairs
            for aspect in ASPECTS
            if (mean := self.grades[pair.id].mean(aspect)) is not None
        ]
        found.sort(key=lambda one: -abs(one[2] - getattr(one[0], one[1])))
        return [one for one in found if one[2] != getattr(one[0], one[1])][:count]


def check_agreement(
    judge: Judge,
    pairs: Sequence[GradedPair] | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> AgreementReport:
    """Let a judge grade the shipped set, or others, and compare.

    Args:
        judge: who is checked.
        pairs: graded replies; None is the shipped set.
        progress: is told after each pair how many are done, of how many.

    Raises:
        ToolError: the server is absent, fails or limits for too long; what was paid is cached.
        InputError: there are no pairs.
    """
    chosen = read_pairs() if pairs is None else pairs
    if not chosen:
        raise InputError("a check of a judge needs at least one graded pair, got none")
    grades = {}
    for done, pair in enumerate(chosen, 1):
        grades[pair.id] = judge.grade(pair.instruction, pair.reply)
        if progress is not None:
            progress(done, len(chosen))
    aspects = [agreement(aspect, chosen, grades) for aspect in ASPECTS]
    return AgreementReport(pairs=chosen, grades=grades, aspects=aspects)


def agreement(aspect: str, pairs: Sequence[GradedPair], grades: Mapping[str, Grades]) -> Agreement:
    """Compare a judge's grades of one aspect with the given ones."""
    judged = [(pair, mean) for pair in pairs if (mean := grades[pair.id].mean(aspect)) is not None]
    if not judged:
        return Agreement(aspect=aspect, count=0)
    ours = np.array([getattr(pair, aspect) for pair, _ in judged], np.float64)
    theirs = np.array([mean for _, mean in judged])
    rounded = np.floor(theirs + 0.5)
    orders = [
        0.5 if (found := (theirs[i] - theirs[j]) * (ours[i] - ours[j])) == 0 else float(found > 0)
        for i, j in combinations(range(len(judged)), 2)
        if judged[i][0].instruction == judged[j][0].instruction and ours[i] != ours[j]
    ]
    spearman, kendall = _ranks(ours, theirs)
    return Agreement(
        aspect=aspect,
        count=len(judged),
        exact=float((rounded == ours).mean()),
        within_one=float((abs(rounded - ours) <= 1).mean()),
        kappa=quadratic_kappa(ours, rounded),
        spearman=spearman,
        kendall=kendall,
        order=sum(orders) / len(orders) if orders else None,
        bias=float((theirs - ours).mean()),
        spread=float(np.mean([np.std(grades[pair.id].grades[aspect]) for pair, _ in judged])),
    )


def quadratic_kappa(first: NDArray[np.float64], second: NDArray[np.float64]) -> float | None:
    """Return Cohen's kappa with quadratic weights; None where chance leaves nothing to explain."""
    seen = float(((first - second) ** 2).mean())
    by_chance = float(((first[:, None] - second[None, :]) ** 2).mean())
    return 1 - seen / by_chance if by_chance else None


def read_pairs(file: Path = PAIRS) -> list[GradedPair]:
    """Read graded pairs, one JSON object a line.

    Raises:
        InputError: the file cannot be read, a field is missing, a grade is not 1 to 5, or an id
            comes twice.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} must be a readable file of graded pairs: {error}") from error
    found: dict[str, GradedPair] = {}
    for number, line in enumerate(lines, 1):
        place = f"line {number} of {file}"
        pair = _pair(line, place)
        if pair.id in found:
            raise InputError(f"{place} must have an id of its own, got {pair.id!r} again")
        found[pair.id] = pair
    return list(found.values())


def _pair(line: str, place: str) -> GradedPair:
    try:
        values = json.loads(line)
        texts = {name: values[name] for name in ("id", "instruction", "reply")}
        grades: dict[str, Any] = {name: values[name] for name in ASPECTS}
    except (ValueError, KeyError, TypeError) as error:
        fields = ", ".join(("id", "instruction", "reply", *ASPECTS))
        raise InputError(f"{place} must be a JSON object with {fields}, got {line:.60}") from error
    for name, text in texts.items():
        if not isinstance(text, str):
            raise InputError(f"{name} in {place} must be a text, got {text!r}")
    for name, grade in grades.items():
        if type(grade) is not int or not LOWEST <= grade <= HIGHEST:
            raise InputError(
                f"{name} in {place} must be a whole number from {LOWEST} to {HIGHEST}, "
                f"got {grade!r}"
            )
    return GradedPair(**texts, **grades)


def _ranks(
    first: NDArray[np.float64], second: NDArray[np.float64]
) -> tuple[float | None, float | None]:
    """Return Spearman's and Kendall's coefficients; None where one side is all the same."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return None, None
    try:
        from scipy import stats
    except ImportError as error:
        raise MissingExtraError("scipy", "evaluate", "an agreement") from error
    found: Any = stats.spearmanr(first, second)
    other: Any = stats.kendalltau(first, second)
    return float(found.statistic), float(other.statistic)


def _text(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"
