"""CTC for the speech decoder: frames, blank, alignment A, collapse and loss.

An *alignment* labels every decoder frame with a unit or with the blank (the last label, K). The
collapse function beta (LLaMA-Omni, section 2.4) merges runs of equal labels, then drops blanks:

    beta([7, 7, _, 7, 3, 3]) = [7, 7, 3]
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from llama_omni.errors import TargetError
from llama_omni.prompt import IGNORE  # pads targets, too: 0 is a real unit


def collapse(alignment: Sequence[int], *, blank: int) -> list[int]:
    """Return the units that an alignment stands for: merge runs, then drop blanks."""
    return CollapseStream(blank).push(alignment)


class CollapseStream:
    """The collapse function for an alignment that arrives in pieces.

    Remembers one label, so a run cut by a piece boundary is still one unit.
    """

    def __init__(self, blank: int) -> None:
        self.blank = blank
        self._previous = blank

    def push(self, labels: Sequence[int]) -> list[int]:
        """Consume the next labels and return the units they complete."""
        units: list[int] = []
        for label in labels:
            if label != self._previous and label != self.blank:
                units.append(label)
            self._previous = label
        return units


def greedy_alignment(logits: Float[Tensor, "B L labels"]) -> Int[Tensor, "B L"]:
    """Return the most probable label of every frame."""
    return logits.argmax(dim=-1)


def frame_lengths(
    lengths: Int[Tensor, " B"], factor: int, target_lengths: Int[Tensor, " B"] | None = None
) -> Int[Tensor, " B"]:
    """Return L of each row: lambda * M, or the number of target units where that is more.

    The second case exists only in training, so that no target is longer than its frames.
    """
    frames = lengths * factor
    return frames if target_lengths is None else torch.maximum(frames, target_lengths)


def frame_sources(
    lengths: Int[Tensor, " B"], frames: Int[Tensor, " B"]
) -> tuple[Int[Tensor, "B L"], Int[Tensor, "B L"]]:
    """Map every frame to the hidden state it copies, and to its place among that state's frames.

    Args:
        lengths: (B,) hidden states M of each row.
        frames: (B,) frames L of each row, at least M.

    Returns:
        sources: (B, L) index of the hidden state, -1 for padding: floor(t / (L / M)), the ratio in
            float32 as the reference computes it.
        places: (B, L) 0 for the first frame of a state, 1 for the next, ...; 0 for padding.

    Source:
        Section 2.4, upsampling; reference `SpeechGeneratorCTC.upsample`.
    """
    L = int(frames.max())
    t = torch.arange(L, device=frames.device)
    ratio = frames.float() / lengths.float()  # (B,)
    sources = (t.float()[None] / ratio[:, None]).floor().long()  # (B, L)
    sources = torch.minimum(sources, lengths[:, None] - 1)
    started = torch.ones_like(sources, dtype=torch.bool)
    started[:, 1:] = sources[:, 1:] != sources[:, :-1]
    first = torch.where(started, t, 0).cummax(dim=1).values  # (B, L) where this state began
    inside = t < frames[:, None]
    return torch.where(inside, sources, -1), torch.where(inside, t - first, 0)


def infeasible_targets(
    targets: Int[Tensor, "B U"], frames: Int[Tensor, " B"], *, num_units: int
) -> list[str]:
    """Say which rows no alignment can produce, and why; empty if all is well.

    Raises:
        TargetError: a target is neither a unit nor padding; that is never a matter of length.
    """
    reasons: list[str] = []
    for row, (target, available) in enumerate(zip(targets.tolist(), frames.tolist(), strict=True)):
        units = [unit for unit in target if unit != IGNORE]
        for unit in units:
            if not 0 <= unit < num_units:
                raise TargetError(
                    f"sample {row}: units must be 0 to {num_units - 1}, got {unit}; "
                    f"pad targets with {IGNORE}"
                )
        repeats = sum(a == b for a, b in pairwise(units))
        if len(units) + repeats > available:
            reasons.append(
                f"sample {row}: {len(units)} units with {repeats} adjacent repeats need "
                f"{len(units) + repeats} frames, got {available}"
            )
    return reasons


def ctc_loss(
    logits: Float[Tensor, "B L labels"],
    frames: Int[Tensor, " B"],
    targets: Int[Tensor, "B U"],
    *,
    normaliser: Tensor | int | None = None,
    infeasible: Literal["raise", "zero"] = "raise",
) -> Float[Tensor, ""]:
    """Compute the CTC loss, summed over the batch and divided by the number of target units.

    Args:
        logits: (B, L, K + 1), the blank last.
        frames: (B,) valid frames of each row.
        targets: (B, U) units, padded on the right with -100.
        normaliser: what to divide by; None is the number of units in this batch. Give the global
            count where several ranks or accumulation steps share one optimiser step.
        infeasible: a target that no alignment can produce raises, or counts as zero loss (the
            reference's `zero_infinity`).

    Raises:
        TargetError: names the sample and why.

    Source:
        Section 2.4; reference `SpeechGeneratorCTC.forward`.
    """
    num_units = logits.shape[-1] - 1
    reasons = infeasible_targets(targets, frames, num_units=num_units)
    if reasons and infeasible == "raise":
        raise TargetError("; ".join(reasons))
    real = targets != IGNORE
    summed = torch.nn.functional.ctc_loss(
        logits.float().log_softmax(dim=-1).transpose(0, 1),  # (L, B, K+1)
        targets[real],
        frames,
        real.sum(dim=1),
        blank=num_units,
        reduction="sum",
        zero_infinity=True,
    )
    return summed / (real.sum().clamp(min=1) if normaliser is None else normaliser)
