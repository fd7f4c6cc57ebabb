"""Whether the speech decoder learns to speak: what it says, and whether it says anything at all.

CTC begins by saying nothing (all frames blank) and should leave that state soon; a run that stays
there wastes its time. What helps is named in the message.
"""

import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from llama_omni.errors import TrainingError

logger = logging.getLogger(__name__)

SILENT = 0.9995  # share of blanks above which nothing is said
ADVICE = (
    "try a higher learning_rate or more steps; check that targets are padded with -100 and reduced "
    "(no adjacent repeats), that units per token stay below upsample_factor, that ctc_states suits "
    "the model, and that speech_decoder.frame_embedding is on"
)


def blank_share(labels: Int[Tensor, "B L"], frames: Int[Tensor, " B"], *, blank: int) -> Tensor:
    """Return the share of valid frames whose best label is the blank, as (); 1 is silence."""
    places = torch.arange(labels.shape[1], device=labels.device)
    inside = places < frames[:, None]  # (B, L)
    return ((labels == blank) & inside).sum() / inside.sum().clamp(min=1)


class CollapseWatch:
    """Counts consecutive steps in which every frame was blank; warns, then stops the run.

    Each process watches its own batches. A run that goes on counts on from its metrics.

    Args:
        warn_after: optimiser steps until a warning; 0: never.
        stop_after: optimiser steps until the run is stopped; 0: never.
        batches: of an optimiser step.
        metrics: the run's metrics.jsonl; None: counting begins at 0.
    """

    def __init__(
        self, *, warn_after: int, stop_after: int, batches: int = 1, metrics: Path | None = None
    ) -> None:
        self._warn, self._stop, self._batches = warn_after, stop_after, batches
        self._metrics = metrics
        self._steps: int | None = None
        self._shares: list[float | None] = []  # of the step that is going on

    def see(self, share: float | None) -> None:
        """Take the blank share of one batch; None: it had no rows.

        Raises:
            TrainingError: nothing but blanks for too long; says what to try.
        """
        if self._steps is None:  # not before: the runner cuts the file to where the run goes on
            self._steps = 0 if self._metrics is None else silent_steps(self._metrics)
        self._shares.append(share)
        if len(self._shares) < self._batches:
            return
        found = [share for share in self._shares if share is not None]
        self._shares = []
        if not found:
            return
        self._steps = self._steps + 1 if min(found) > SILENT else 0
        if self._warn and self._steps == self._warn:
            logger.warning(
                "speech decoder says nothing but blanks steps=%d; %s", self._warn, ADVICE
            )
        if self._stop and self._steps >= self._stop:
            raise TrainingError(
                f"the speech decoder must say units, got nothing but blanks for {self._steps} "
                f"steps; {ADVICE}"
            )


def silent_steps(metrics: Path) -> int:
    """Return for how many steps a run had said nothing when it stopped.

    Exact but for the steps since the last line of the file, which are fewer than `log_every`.
    """
    last = spoken = 0
    with suppress(FileNotFoundError):
        for line in metrics.read_text(encoding="utf-8").splitlines():
            numbers = json.loads(line)
            if "blank_share" in numbers:
                last = numbers["step"]
                spoken = spoken if numbers["blank_share"] > SILENT else last
    return last - spoken


class UnitScore:
    """Adds up, over held-out answers, how far said units are from the wanted ones."""

    def __init__(self) -> None:
        self._errors = self._wanted = self._said = self._tokens = 0
        self._first_found = self._first_wanted = 0

    def add(self, wanted: Sequence[int], said: Sequence[int], *, num_tokens: int) -> None:
        """Take one answer: target units, decoded units, and its number of tokens."""
        errors, found = align(wanted, said)
        first = max(1, round(len(wanted) / max(1, num_tokens)))  # units of the first token
        self._errors += errors
        self._wanted += len(wanted)
        self._said += len(said)
        self._tokens += num_tokens
        self._first_found += int(found[:first].sum())
        self._first_wanted += min(first, len(wanted))

    def numbers(self) -> dict[str, float]:
        """Return unit error rate, units per token, and recall of the first token's units."""
        return {
            "unit_error": self._errors / max(1, self._wanted),
            "units_per_token": self._said / max(1, self._tokens),
            "wanted_units_per_token": self._wanted / max(1, self._tokens),
            "first_token_recall": self._first_found / max(1, self._first_wanted),
        }


def align(wanted: Sequence[int], said: Sequence[int]) -> tuple[int, np.ndarray]:
    """Align two sequences of units with the fewest edits.

    Returns:
        The number of edits, and (W,) booleans: which of the wanted units were said.
    """
    a, b = np.asarray(wanted, np.int64), np.asarray(said, np.int64)
    W, S = len(a), len(b)
    costs = np.zeros((W + 1, S + 1), np.int32)
    costs[0], costs[:, 0] = np.arange(S + 1), np.arange(W + 1)
    steps = np.arange(S + 1)
    for i in range(1, W + 1):
        row = np.minimum(costs[i - 1, 1:] + 1, costs[i - 1, :-1] + (a[i - 1] != b))
        row = np.concatenate([[i], row])
        costs[i] = np.minimum.accumulate(row - steps) + steps  # insertions
    found = np.zeros(W, bool)
    i, j = W, S
    while i and j:
        if a[i - 1] == b[j - 1] and costs[i, j] == costs[i - 1, j - 1]:
            found[i - 1] = True
            i, j = i - 1, j - 1
        elif costs[i, j] == costs[i - 1, j - 1] + 1:
            i, j = i - 1, j - 1
        elif costs[i, j] == costs[i - 1, j] + 1:
            i -= 1
        else:
            j -= 1
    return int(costs[W, S]), found
