"""What the runner trains: a `Task` brings the model, the loss and the held-out numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True, slots=True)
class StepResult:
    """What one batch gives.

    Attributes:
        loss: sum over this batch's targets, divided by the normaliser that was handed in. Summed
            over the batches of a step it is the step's loss, so nothing is averaged twice.
        numbers: what else to watch, each a mean over this batch's own targets; the runner averages
            them over batches, weighted by `Task.count`.
    """

    loss: Tensor
    numbers: Mapping[str, float | Tensor] = field(default_factory=dict)


@runtime_checkable
class Task(Protocol):
    """One thing to learn. The runner knows nothing else about models, audio or text."""

    @property
    def model(self) -> nn.Module:
        """Everything that is trained or saved; `requires_grad` says what learns."""
        ...

    def collate(self, items: list[Any]) -> dict[str, Any]:
        """Make a batch of data set items, on the CPU; runs in loader workers.

        Random numbers (torch, NumPy, random) are seeded by the run's seed and the step, alike for
        all batches of it. What is drawn for a row should follow from one of them and the row's
        place in the step (see `sampler.Part`, which `items` is): then it repeats exactly, with any
        number of workers and however a step is divided.
        """
        ...

    def count(self, batch: dict[str, Any]) -> int:
        """Return how many targets (tokens, units) of a batch its loss is summed over."""
        ...

    def loss(self, batch: dict[str, Any], normaliser: Tensor) -> StepResult:
        """Compute the loss of a batch, which is on the run's device by now.

        Args:
            batch: what `collate` made.
            normaliser: (), the targets of the whole step: all batches and all processes.
        """
        ...

    def evaluate(self, step: int) -> dict[str, float]:
        """Return held-out numbers ("loss", ...). Every process calls this; rank 0's count.

        The model is in evaluation mode, gradients are off, and the caller's random state is put
        back afterwards.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write the finished product into an existing empty folder.

        Called on rank 0, and on all processes where parameters are sharded: gather them with
        `processes.full_state(model)` and write on rank 0 only.
        """
        ...
