"""Where a run's numbers go: metrics.jsonl always; a progress bar, TensorBoard and W&B where wanted.

On rank 0; on others it is silent.
"""

import hashlib
import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from llama_omni.errors import MissingExtraError
from llama_omni.files import write_text

logger = logging.getLogger(__name__)


class Tracking:
    """One run's numbers, written as they come."""

    def __init__(
        self,
        output: Path,
        *,
        step: int,
        max_steps: int,
        tensorboard: bool = False,
        wandb_project: str = "",
        silent: bool = False,
    ) -> None:
        self._silent = silent
        self._path = output / "metrics.jsonl"
        if not silent:
            _cut(self._path, step)
        self._board = self._wandb = None
        if tensorboard and not silent:
            self._board = _tensorboard(output / "tensorboard", step)
        if wandb_project and not silent:
            self._wandb = _wandb(wandb_project, output, step)
        self._shown = sys.stderr.isatty() and not silent
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=Console(stderr=True),
            refresh_per_second=2,
            disable=not self._shown,
        )
        self._task = self._bar.add_task(output.name, total=max_steps, completed=step, numbers="")

    @contextmanager
    def open(self) -> Iterator["Tracking"]:
        """Show the bar while within, and close everything afterwards."""
        with self._bar:
            try:
                yield self
            finally:
                if self._board is not None:
                    self._board.close()
                if self._wandb is not None:
                    self._wandb.finish()

    def advance(self, step: int) -> None:
        """Say how many steps are done."""
        if self._shown:
            self._bar.update(self._task, completed=step)

    def write(self, step: int, numbers: Mapping[str, Any]) -> None:
        """Append one line of numbers."""
        if self._silent:
            return
        with self._path.open("a") as stream:
            stream.write(json.dumps({"step": step, **numbers}) + "\n")
        plain = {name: v for name, v in numbers.items() if isinstance(v, int | float)}
        text = "  ".join(f"{name} {value:.4g}" for name, value in plain.items())
        if self._shown:
            self._bar.update(self._task, completed=step, numbers=text)
        else:
            logger.info("training step=%d %s", step, text)
        if self._board is not None:
            for name, value in plain.items():
                self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(plain, step=step)


def _cut(path: Path, step: int) -> None:
    """Drop lines behind the step that a run goes on from; it will write them again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        with suppress(ValueError, KeyError):  # a line that a kill cut short
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
    write_text(path, "".join(kept))


def _tensorboard(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)


def _wandb(project: str, output: Path, step: int) -> Any:
    try:
        import wandb  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtraError("wandb", None, "wandb_project") from error
    place = output.resolve()  # folders of stages are called alike: their place tells them apart
    digest = hashlib.sha256(str(place).encode()).hexdigest()[:12]
    return wandb.init(
        project=project, name=f"{place.parent.name}/{place.name}", dir=str(output),
        id=f"{place.name}-{digest}", resume="allow" if step else None,
    )  # fmt: skip
