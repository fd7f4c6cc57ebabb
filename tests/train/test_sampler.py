from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_omni.errors import ConfigError
from llama_omni.train.sampler import Keys, StepPlan
from llama_omni.train.settings import TrainSettings, greater_is_better

LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=60)


@settings(max_examples=50)
@given(LENGTHS, st.integers(1, 9), st.integers(1, 7), st.integers(0, 3))
def test_every_row_is_seen_equally_often(lengths, rows, bucket, seed):
    plan = StepPlan(lengths, rows_per_step=rows, bucket=bucket, seed=seed)
    window = max(1, min(bucket, len(lengths) // rows))
    steps = window * len(lengths)  # whole windows and whole epochs
    counts = Counter(int(row) for step in range(steps) for row in plan.rows(step))
    assert set(counts.values()) == {window * rows}
    assert len(counts) == len(lengths)


def test_steps_are_of_like_length_and_in_random_order():
    lengths = np.random.default_rng(0).integers(1, 1000, 2000)
    plan = StepPlan(lengths, rows_per_step=10, bucket=50, seed=0)
    spans = [np.ptp(lengths[plan.rows(step)]) for step in range(200)]
    assert np.mean(spans) < 60  # 900 without grouping
    means = [lengths[plan.rows(step)].mean() for step in range(50)]
    assert abs(np.corrcoef(means, range(50))[0, 1]) < 0.5


def test_steps_can_be_asked_for_in_any_order():
    one, two = (StepPlan(range(1, 41), rows_per_step=4, bucket=3, seed=1) for _ in range(2))
    forward = [one.rows(step).tolist() for step in range(30)]
    backward = [two.rows(step).tolist() for step in reversed(range(30))]
    assert forward == backward[::-1]


def keys(first, last, *, rank, accumulation=2, processes=2):
    return list(
        Keys(first, last, accumulation=accumulation, rank=rank, processes=processes, seed=1)
    )


def test_keys_of_all_processes_are_all_parts_of_each_step():
    found = [key for rank in (0, 1) for key in keys(3, 5, rank=rank)]
    assert sorted(found) == [(step, part) for step in (3, 4) for part in range(4)]


def test_processes_take_short_and_long_parts_in_turn():
    """Parts are sorted by length; those of one turn are neighbours, so that none waits for long."""
    counts = Counter(part for _, part in keys(0, 300, rank=0, accumulation=1, processes=3))
    assert all(70 < counts[part] < 130 for part in range(3))
    for rank in range(3):
        found = keys(0, 20, rank=rank, processes=3)
        assert [part // 3 for _, part in found] == [0, 1] * 20


def test_keys_do_not_depend_on_where_a_run_goes_on():
    assert keys(0, 9, rank=1)[8:] == keys(4, 9, rank=1)


def test_data_set_without_rows_is_refused():
    with pytest.raises(ConfigError, match="must hold at least one row, got none"):
        StepPlan([], rows_per_step=4, bucket=3, seed=1)


def test_rate_warms_up_and_falls_as_a_cosine():
    chosen = TrainSettings(max_steps=100, learning_rate=1.0, warmup_ratio=0.1, min_lr_ratio=0.2)
    rates = [chosen.rate(step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert rates[55] == pytest.approx(0.6)
    assert rates[-1] == pytest.approx(0.2, abs=1e-2)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_steps_follow_from_epochs():
    chosen = TrainSettings(epochs=3.0, batch_size=2, accumulation=4)
    assert chosen.steps(200_000, 4) == 18_750
    assert chosen.steps(3, 1) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0, got 0.0"),
        ({"warmup_ratio": 2.0}, "warmup_ratio must be 0 to 1, got 2.0"),
        ({"precision": "fp16"}, "precision must be float32 or bf16, got 'fp16'"),
        ({"epochs": 0.0}, "epochs must be above 0 and finite without max_steps, got 0.0"),
    ],
)
def test_impossible_settings_of_a_run_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        TrainSettings(**change)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("loss", False),
        ("unit_error", False),
        ("wer_test_seen", False),
        ("exact", True),
        ("accuracy_test/addition", True),
        ("first_token_recall", True),
    ],
)
def test_name_of_a_metric_tells_which_way_is_better(metric, expected):
    assert greater_is_better(metric) == expected


@pytest.mark.parametrize("metric", ["units_per_token", "exactt", "exact_loss"])
def test_metric_whose_name_does_not_tell_is_refused(metric):
    with pytest.raises(ConfigError, match=f"greater_is_better must be true or .* got '{metric}'"):
        greater_is_better(metric)
