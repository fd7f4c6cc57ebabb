"""Intervals and tests over items: a rate is a sum over a sum, recomputed in every resample.

Every function takes one row per item; items are what is drawn, as they alone are independent.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from llama_omni.errors import InputError

CONFIDENCE = 0.95
RESAMPLES = 2_000
_ROWS = 200  # resamples at a time: memory stays small with many items

Parts = Sequence[tuple[float, float]]  # numerator and denominator of each item
Numbers = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """How much the second system is above the first, on the same items."""

    value: float
    low: float
    high: float
    p: float  # of so large a difference, either way, were the two systems exchangeable
    count: int


def ratio(parts: Parts) -> float | None:
    """Return the sum of the numerators over that of the denominators; None over nothing."""
    below = sum(bottom for _, bottom in parts)
    return sum(top for top, _ in parts) / below if below else None


def ratio_interval(parts: Parts, *, seed: int) -> tuple[float, float] | None:
    """Return the bootstrap interval of a ratio; None where no resample has a denominator."""
    table = _table(parts)
    found = np.concatenate([_ratios(counts @ table) for counts in _counts(len(table), seed)])
    return _between(found)


def quantile_interval(values: Sequence[float], q: float, *, seed: int) -> tuple[float, float]:
    """Return the bootstrap interval of a quantile."""
    table = np.asarray(values, np.float64)
    if not len(table):
        raise InputError("an interval needs at least one item, got none")
    found = [np.quantile(table[rows], q, axis=1) for rows in _draws(len(table), seed)]
    interval = _between(np.concatenate(found))
    assert interval is not None, "quantiles are never absent"
    return interval


def paired_difference(before: Parts, after: Parts, *, seed: int) -> Difference:
    """Compare two systems item by item: a bootstrap interval, and a paired permutation test.

    The test exchanges the two systems' parts of an item by the toss of a coin.

    Raises:
        InputError: the items are not the same number, are none, or nothing can be divided.
    """
    if len(before) != len(after):
        raise InputError(
            f"both systems must have the same items, got {len(before)} and {len(after)}"
        )
    first, second = _table(before), _table(after)
    both = np.stack([first, second], 1)  # (items, systems, parts)
    totals = both.sum(0)
    if not totals[:, 1].all():
        raise InputError("a comparison needs something to divide by in both systems, got nothing")
    value = _differences(totals[None])[0]
    drawn = [
        _differences((counts @ both.reshape(len(both), 4)).reshape(-1, 2, 2))
        for counts in _counts(len(both), seed)
    ]
    interval = _between(np.concatenate(drawn))
    low, high = interval if interval is not None else (value, value)
    as_large = swaps = 0
    coins = np.random.default_rng(seed + 1)
    for size in _sizes():
        flips = coins.integers(0, 2, (size, len(both))).astype(np.float64)
        moved = flips @ (second - first)  # (resamples, parts): from the second system to the first
        found = _differences(np.stack([totals[0] + moved, totals[1] - moved], 1))
        # What cannot be divided counts as large, and so does what differs by rounding alone.
        as_large += size - int((np.abs(found) < abs(value) * (1 - 1e-9) - 1e-12).sum())
        swaps += size
    p = (as_large + 1) / (swaps + 1)
    return Difference(value=float(value), low=low, high=high, p=p, count=len(both))


def _table(parts: Parts) -> Numbers:
    if not len(parts):
        raise InputError("an interval needs at least one item, got none")
    return np.asarray(parts, np.float64).reshape(-1, 2)


def _sizes() -> list[int]:
    return [min(_ROWS, RESAMPLES - begun) for begun in range(0, RESAMPLES, _ROWS)]


def _draws(count: int, seed: int) -> Iterator[NDArray[np.int64]]:
    chance = np.random.default_rng(seed)
    for size in _sizes():
        yield chance.integers(0, count, (size, count))


def _counts(count: int, seed: int) -> Iterator[Numbers]:
    """Yield how often each item is drawn in each resample; the same for all scores of a table."""
    for counts in _drawn(count, seed):
        yield counts.astype(np.float64)


@lru_cache(maxsize=2)
def _drawn(count: int, seed: int) -> tuple[NDArray[np.uint8], ...]:
    return tuple(
        np.stack([np.bincount(row, minlength=count) for row in rows]).astype(np.uint8)
        for rows in _draws(count, seed)
    )


def _ratios(sums: Numbers) -> Numbers:
    """Divide; what has no denominator is not a number."""
    top, below = sums[..., 0], sums[..., 1]
    return np.divide(top, below, out=np.full_like(top, np.nan), where=below != 0)


def _differences(sums: Numbers) -> Numbers:
    ratios = _ratios(sums)
    return ratios[:, 1] - ratios[:, 0]


def _between(found: Numbers) -> tuple[float, float] | None:
    found = found[~np.isnan(found)]
    if not len(found):
        return None
    tail = (1.0 - CONFIDENCE) / 2.0
    low, high = np.quantile(found, [tail, 1.0 - tail])
    return float(low), float(high)
