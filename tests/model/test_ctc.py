import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llama_omni.errors import TargetError
from llama_omni.model.ctc import (
    CollapseStream,
    collapse,
    ctc_loss,
    frame_lengths,
    frame_sources,
    infeasible_targets,
)

BLANK = 4


@pytest.mark.parametrize(
    ("alignment", "units"),
    [
        pytest.param([], [], id="empty"),
        pytest.param([1, 1, 1], [1], id="run-merges"),
        pytest.param([1, BLANK, 1], [1, 1], id="blank-separates"),
        pytest.param([BLANK, BLANK], [], id="only-blanks"),
        pytest.param([0, 0, BLANK, 0, 3, 3, BLANK], [0, 0, 3], id="unit-zero-is-a-unit"),
    ],
)
def test_collapse(alignment, units):
    assert collapse(alignment, blank=BLANK) == units


@given(st.lists(st.integers(0, BLANK)), st.lists(st.integers(0, 7), min_size=1))
def test_collapse_stream_matches_collapse_for_any_split(alignment, sizes):
    stream, streamed, start = CollapseStream(BLANK), [], 0
    for size in sizes * (len(alignment) + 1):
        streamed += stream.push(alignment[start : start + size])
        start += size
    streamed += stream.push(alignment[start:])
    assert streamed == collapse(alignment, blank=BLANK)


def test_frames_copy_their_state_and_know_their_place():
    lengths = torch.tensor([2, 1])
    frames = frame_lengths(lengths, 3)
    sources, places = frame_sources(lengths, frames)
    assert sources.tolist() == [[0, 0, 0, 1, 1, 1], [0, 0, 0, -1, -1, -1]]
    assert places.tolist() == [[0, 1, 2, 0, 1, 2], [0, 1, 2, 0, 0, 0]]


@given(st.integers(1, 9), st.integers(1, 30), st.integers(0, 300))
def test_long_target_stretches_frames_evenly(num_states, factor, num_units):
    lengths = torch.tensor([num_states])
    frames = frame_lengths(lengths, factor, torch.tensor([num_units]))
    assert frames.item() == max(factor * num_states, num_units)
    sources, _ = frame_sources(lengths, frames)
    counts = torch.bincount(sources[0], minlength=num_states)
    assert sources[0].tolist() == sorted(sources[0].tolist())
    assert counts.max() - counts.min() <= 1


def test_ctc_loss_matches_a_hand_worked_case():
    # Two frames, one unit, uniform over two labels: of the four alignments three give [0].
    loss = ctc_loss(torch.zeros(1, 2, 2), torch.tensor([2]), torch.tensor([[0]]))
    assert loss.item() == pytest.approx(-math.log(3 / 4))


def test_ctc_loss_divides_by_the_units_of_the_whole_batch():
    logits, frames = torch.randn(2, 8, 5), torch.tensor([8, 6])
    targets = torch.tensor([[0, 1, 2], [3, -100, -100]])
    together = ctc_loss(logits, frames, targets)
    apart = [
        ctc_loss(logits[:1], frames[:1], targets[:1], normaliser=4),
        ctc_loss(logits[1:, :6], frames[1:], targets[1:], normaliser=4),
    ]
    torch.testing.assert_close(together, sum(apart))


def test_infeasible_target_is_named_with_its_reason():
    logits, frames = torch.zeros(2, 3, 5), torch.tensor([3, 3])
    targets = torch.tensor([[0, 1, -100], [2, 2, 3]])
    with pytest.raises(TargetError, match=r"sample 1: 3 units with 1 adjacent repeats need 4 fra"):
        ctc_loss(logits, frames, targets)
    assert ctc_loss(logits, frames, targets, infeasible="zero").isfinite()


@pytest.mark.parametrize("unit", [4, -1, 1000])
def test_target_outside_the_vocabulary_is_refused(unit):
    with pytest.raises(TargetError, match=f"sample 0: units must be 0 to 3, got {unit}"):
        infeasible_targets(torch.tensor([[unit]]), torch.tensor([9]), num_units=4)
