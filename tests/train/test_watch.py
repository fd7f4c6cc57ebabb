import json
import logging

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llama_omni.errors import TrainingError
from llama_omni.train.runner import train
from llama_omni.train.watch import CollapseWatch, UnitScore, align, blank_share, silent_steps
from tests.train.talk import examples, stage_two, talking_model

UNITS = st.lists(st.integers(0, 3), max_size=8)


def distance(a, b) -> int:
    """Textbook edit distance."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
    return row[-1]


@given(UNITS, UNITS)
def test_align_counts_the_fewest_edits(wanted, said):
    edits, found = align(wanted, said)
    assert edits == distance(wanted, said)
    assert found.sum() >= len(wanted) - edits
    assert len(found) == len(wanted)


def test_score_counts_errors_and_the_first_tokens_units():
    score = UnitScore()
    score.add([1, 2, 3, 4, 5, 6], [3, 4, 5, 6], num_tokens=3)
    score.add([1, 2, 3, 4], [1, 2, 3, 0], num_tokens=2)
    assert score.numbers() == {
        "unit_error": pytest.approx(3 / 10),
        "units_per_token": pytest.approx(8 / 5),
        "wanted_units_per_token": pytest.approx(2.0),
        "first_token_recall": pytest.approx(2 / 4),
    }


def test_blank_share_counts_valid_frames():
    labels = torch.tensor([[7, 7, 1, 7], [7, 2, 7, 7]])
    assert float(blank_share(labels, torch.tensor([4, 2]), blank=7)) == pytest.approx(4 / 6)


def test_collapse_is_warned_of_and_then_stops_the_run(caplog):
    watch = CollapseWatch(warn_after=3, stop_after=6)
    for share in (1.0, 1.0, 0.9, 1.0, 1.0):
        watch.see(share)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        watch.see(1.0)
    assert "nothing but blanks steps=3; try a higher learning_rate" in caplog.text
    watch.see(1.0)
    watch.see(1.0)
    with pytest.raises(TrainingError, match="nothing but blanks for 6 steps; try a higher"):
        watch.see(1.0)


def test_collapse_is_counted_in_optimiser_steps():
    watch = CollapseWatch(warn_after=0, stop_after=2, batches=3)
    for share in (1.0, 0.9, 1.0, 1.0, None, 1.0, None, None, None, 1.0, 1.0):
        watch.see(share)
    with pytest.raises(TrainingError, match="nothing but blanks for 2 steps"):
        watch.see(1.0)


def test_run_that_goes_on_counts_on(tmp_path):
    rows = [(10, 0.5), (20, 1.0), (30, 0.9), (40, 1.0), (50, 1.0)]
    text = [json.dumps({"step": step, "blank_share": share}) for step, share in rows]
    text.insert(3, json.dumps({"step": 30, "eval_blank_share": 0.1}))
    path = tmp_path / "metrics.jsonl"
    path.write_text("\n".join(text) + "\n")
    assert silent_steps(path) == 20
    assert silent_steps(tmp_path / "none") == 0
    watch = CollapseWatch(warn_after=0, stop_after=21, metrics=path)
    with pytest.raises(TrainingError, match="nothing but blanks for 21 steps"):
        watch.see(1.0)


def test_all_blank_run_is_stopped(tmp_path):
    model, tokenizer = talking_model()
    model.speech_decoder.output_proj.bias.data[-1] = 100.0
    task = stage_two(model, tokenizer, collapse_stop=3, learning_rate=1e-6)
    rows = examples()
    with pytest.raises(TrainingError, match="speech decoder must say units"):
        train(task, rows, rows.lengths, task._settings, tmp_path)
