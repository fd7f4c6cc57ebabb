"""Intervals and paired tests: worked by hand where that can be done, else what must hold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_omni.errors import InputError
from llama_omni.evaluate.intervals import (
    paired_difference,
    quantile_interval,
    ratio,
    ratio_interval,
)


def test_a_rate_is_a_sum_over_a_sum():
    assert ratio([(1.0, 10.0), (1.0, 2.0)]) == pytest.approx(2 / 12)  # not the mean of .1 and .5
    assert ratio([(0.0, 0.0)]) is None
    assert ratio([]) is None


def test_interval_of_equal_items_has_no_width():
    assert ratio_interval([(1.0, 4.0)] * 10, seed=0) == (0.25, 0.25)


def test_interval_of_a_coin_is_the_binomials():
    parts = [(float(i % 2), 1.0) for i in range(400)]
    low, high = ratio_interval(parts, seed=0)
    half = 1.96 * np.sqrt(0.25 / 400)
    assert low == pytest.approx(0.5 - half, abs=0.01)
    assert high == pytest.approx(0.5 + half, abs=0.01)


def test_resamples_without_a_denominator_are_left_out():
    low, high = ratio_interval([(1.0, 2.0), (0.0, 0.0)], seed=0)
    assert (low, high) == (0.5, 0.5)
    assert ratio_interval([(0.0, 0.0)], seed=0) is None


_WHOLE = st.integers(0, 9).map(float)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(_WHOLE, _WHOLE.map(lambda n: n + 1)), min_size=1, max_size=30),
    st.integers(0, 99),
)
def test_interval_is_ordered_repeatable_and_within_the_items(parts, seed):
    low, high = ratio_interval(parts, seed=seed)
    assert ratio_interval(parts, seed=seed) == (low, high)
    singles = [top / below for top, below in parts]
    assert min(singles) - 1e-9 <= low <= high <= max(singles) + 1e-9


def test_quantile_interval_holds_the_quantile():
    values = [float(n) for n in range(100)]
    low, high = quantile_interval(values, 0.5, seed=0)
    assert low < 49.5 < high
    assert quantile_interval([3.0], 0.95, seed=0) == (3.0, 3.0)
    with pytest.raises(InputError, match="at least one item"):
        quantile_interval([], 0.5, seed=0)


def test_paired_difference_of_the_same_system_is_nothing():
    parts = [(float(i % 3 == 0), 1.0) for i in range(60)]
    found = paired_difference(parts, parts, seed=0)
    assert (found.value, found.low, found.high, found.count) == (0, 0, 0, 60)
    assert found.p == 1.0


def test_a_small_steady_difference_is_seen_only_in_pairs():
    chance = np.random.default_rng(0)
    base = chance.normal(10, 5, 100)
    before = [(float(value), 1.0) for value in base]
    after = [(float(value), 1.0) for value in base + 0.5 + 0.1 * chance.normal(size=100)]
    found = paired_difference(before, after, seed=0)
    assert found.value == pytest.approx(0.5, abs=0.05)
    assert found.low > 0.4
    assert found.p < 0.01
    lows = ratio_interval(after, seed=0)[0], ratio_interval(before, seed=0)[1]
    assert lows[0] < lows[1]  # apart, their intervals overlap


def test_permutation_test_of_four_items_is_that_of_sixteen_signs():
    # All four differences are 1: of the 16 ways to give them signs, 2 are as large.
    found = paired_difference([(0.0, 1.0)] * 4, [(1.0, 1.0)] * 4, seed=0)
    assert found.value == 1
    assert found.p == pytest.approx(2 / 16, abs=0.03)


def test_corpus_rates_are_compared_as_sums():
    before = [(1.0, 10.0), (1.0, 2.0)]
    after = [(2.0, 10.0), (1.0, 2.0)]
    assert paired_difference(before, after, seed=0).value == pytest.approx(3 / 12 - 2 / 12)


def test_other_items_are_refused():
    with pytest.raises(InputError, match="same items, got 1 and 2"):
        paired_difference([(1.0, 1.0)], [(1.0, 1.0)] * 2, seed=0)
    with pytest.raises(InputError, match="something to divide by"):
        paired_difference([(1.0, 1.0)], [(0.0, 0.0)], seed=0)
