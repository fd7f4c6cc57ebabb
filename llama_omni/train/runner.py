"""One loop for everything that is trained here: stages one and two, language model, encoder.

Unusual: a step first fetches all its batches, because each loss is divided by the number of
targets in the whole step, over accumulation and processes. So the gradient is that of one big
batch, however it is divided. On torch and Accelerate instead of Transformers' Trainer: ADR 0014.
"""

import json
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llama_omni.errors import TrainingError
from llama_omni.files import write_text
from llama_omni.train.checkpoints import Checkpoints, fingerprint, write_folder
from llama_omni.train.learner import Learner
from llama_omni.train.processes import set_up, to_device
from llama_omni.train.run_folder import read_settings, settle
from llama_omni.train.sampler import Batch, Batches, Keys, StepPlan, seeded
from llama_omni.train.settings import FREE_TO_CHANGE, TrainSettings, greater_is_better
from llama_omni.train.stop_signals import watch_signals
from llama_omni.train.task import Task
from llama_omni.train.tracking import Tracking
from llama_omni.train.writing import writing

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainResult:
    """Where a run stands when `train` returns."""

    step: int
    done: bool  # False: `stop_after_s` ended this call; call again to go on
    metrics: dict[str, float] = field(default_factory=dict)  # of the last evaluation
    best: float | None = None  # value of `settings.metric`; its product is in output/best


def train(
    task: Task,
    dataset: Any,
    lengths: Sequence[float | int] | np.ndarray,
    settings: TrainSettings,
    output: Path,
    *,
    resume: bool = True,
    start: Path | None = None,
    fixed: Mapping[str, Any] | None = None,
) -> TrainResult:
    """Train a task, from where an earlier call with the same output folder stopped.

    Leaves the trained weights in `task.model`, in evaluation mode. SIGINT and SIGTERM save a
    checkpoint and then raise KeyboardInterrupt; a second one stops at once.

    Args:
        task: what to learn.
        dataset: rows by number (and `ids`, which error messages name); read in loader workers.
        lengths: of each row, by which batches are grouped.
        settings: see `TrainSettings`.
        output: gets checkpoints/, best/ (the best product), final/ (the last one), metrics.jsonl,
            settings.json, done.json, tensorboard/.
        resume: False refuses a folder in which a run has begun.
        start: whose weights the task begins with; part of what makes it this run.
        fixed: JSON-able, what else makes it this run: the task's settings, hashes of its data. A
            folder of an older version lacks some of it; that is not compared.

    Raises:
        TrainingError: the loss is no number (names the samples), the folder holds another run, or
            an evaluation does not give `settings.metric`.
        OutputError: something cannot be written; the last checkpoint stays.
    """
    output = Path(output)
    with writing(output):
        return _Run(task, dataset, lengths, settings, output, resume, start, fixed or {}).go()


class _Run:
    def __init__(
        self,
        task: Task,
        dataset: Any,
        lengths: Sequence[float | int] | np.ndarray,
        settings: TrainSettings,
        output: Path,
        resume: bool,
        start: Path | None,
        fixed: Mapping[str, Any],
    ) -> None:
        self.task, self.dataset, self.settings, self.output = task, dataset, settings, output
        self.processes = set_up(settings.device)
        rows = settings.batch_size * settings.accumulation * self.processes.world
        self.max_steps = settings.steps(len(lengths), self.processes.world)
        self.plan = StepPlan(
            lengths, rows_per_step=rows, bucket=settings.bucket, seed=settings.seed
        )
        facts: dict[str, Any] = {
            "rows_per_step": rows,
            "steps": self.max_steps,
            "data_rows": len(lengths),
            "start": str(start if start is None else start.resolve()),
        }
        self._settle(facts | dict(fixed), resume)
        if rows > len(lengths) and self.processes.is_main:
            logger.warning("a step takes rows more than once step=%d rows=%d", rows, len(lengths))
        self.frozen = fingerprint(task.model)  # before they are sharded: then each sees its part
        self.learner = Learner(task, settings, self.processes)
        self.checkpoints = Checkpoints(
            output / "checkpoints", keep=settings.keep, processes=self.processes
        )
        self.step, self.best, self.metrics, self.seconds = 0, None, {}, 0.0
        self.best_loss: float | None = None  # of the best's evaluation, where that gave one
        self.sums: dict[str, list[float]] = {}  # name -> [weighted sum, weight] since the last line
        self._started = time.monotonic()
        self._signals: list[int] = []
        torch.manual_seed(settings.seed + self.processes.rank)
        if path := self.processes.from_main(self.checkpoints.newest()):
            self._restore(path)
        self.tracking = Tracking(
            output,
            step=self.step,
            max_steps=self.max_steps,
            tensorboard=settings.tensorboard,
            wandb_project=settings.wandb_project,
            silent=not self.processes.is_main,
        )

    def _settle(self, facts: dict[str, Any], resume: bool) -> None:
        """Refuse a folder of another run; note this run's settings, and what else makes it."""
        settings, before = self.settings, read_settings(self.output)
        self.greater = settings.greater_is_better
        if self.greater is None and before.get("metric") == settings.metric:
            self.greater = before.get("greater_is_better")  # as the run began
        if self.greater is None:
            self.greater = greater_is_better(settings.metric)
        values = asdict(settings) | {"greater_is_better": self.greater}
        free_to_change = FREE_TO_CHANGE | settings.unused()
        fixed = {name: value for name, value in values.items() if name not in free_to_change}
        # A metric that no evaluation gives is found out at the first: it may be put right.
        free = () if (self.output / "best").exists() else ("metric", "greater_is_better")
        settle(
            self.output,
            before=before,
            fixed=fixed | facts,
            noted=values,
            processes=self.processes,
            resume=resume,
            free=free,
        )

    def _restore(self, path: Path) -> None:
        loaded = self.checkpoints.load(path, sharded=self.learner.sharded)
        state = loaded["state"]
        if state["frozen"] != self.frozen:
            raise TrainingError(f"{path} must go with other frozen weights than the model's")
        self.learner.restore(loaded["weights"], loaded["optimizer"])
        self.step, self.metrics, self.seconds = state["step"], state["metrics"], state["seconds"]
        if self.processes.from_main((self.output / "best").exists()):
            self.best, self.best_loss = state["best"], state.get("best_loss")
        if self.processes.is_main:  # they are of all processes, and will be added up again
            self.sums = state["sums"]
        logger.info("training goes on step=%d path=%s", self.step, path)

    def go(self) -> TrainResult:
        """Train to the end, or to the end of this call's time."""
        try:
            with self.tracking.open(), watch_signals() as self._signals:
                stopped = self.step < self.max_steps and self._steps()
        finally:
            self.task.model.eval()
        if stopped == "signal":
            raise KeyboardInterrupt
        if not stopped:
            self._finish()
        return TrainResult(step=self.step, done=not stopped, metrics=self.metrics, best=self.best)

    def _steps(self) -> str:
        """Train until the end (and return "") or until something asks to stop."""
        settings, processes = self.settings, self.processes
        batches = Batches(
            self.task, self.dataset, self.plan, size=settings.batch_size, seed=settings.seed
        ).loader(
            Keys(
                self.step,
                self.max_steps,
                accumulation=settings.accumulation,
                rank=processes.rank,
                processes=processes.world,
                seed=settings.seed,
            ),
            workers=settings.workers,
            pin_memory=processes.device.type == "cuda",
        )
        with closing(batches):
            return self._steps_of(batches)

    def _steps_of(self, batches: Iterator[Batch]) -> str:
        settings = self.settings
        self.learner.train_mode()
        stop = ""
        while self.step < self.max_steps and not stop:
            numbers = self._one_step([next(batches) for _ in range(settings.accumulation)])
            self.step += 1
            last = self.step == self.max_steps
            stop = numbers.pop("stop")
            self._log(numbers, force=last)
            if last or (settings.eval_every and self.step % settings.eval_every == 0):
                self._evaluate()
            if last or stop or self.step % settings.save_every == 0:
                self._save()
        return stop if self.step < self.max_steps else ""

    def _one_step(self, batches: list[Batch]) -> dict[str, Any]:
        settings, processes = self.settings, self.processes
        counts = [self.task.count(batch) for _, batch in batches]
        total = torch.tensor(float(sum(counts)), device=processes.device)
        normaliser = processes.sum(total).clamp(min=1)
        losses: list[float] = []
        for (_, batch), count in zip(batches, counts, strict=True):
            with self._autocast():
                result = self.learner.root("loss", to_device(batch, processes.device), normaliser)
            losses.append(float(result.loss.detach()))
            if self._is_broken(losses[-1]):
                break  # the parameters stay as they are
            self.learner.backward(result.loss)
            for name, value in result.numbers.items():
                self._add(name, float(value), float(max(count, 1)))
        bad = [not math.isfinite(loss) for loss in losses]
        told = torch.tensor(
            [sum(losses), float(any(bad)), *self._wishes()], device=processes.device
        ).double()
        loss, failed, signalled, late = processes.sum(told).tolist()
        if failed or not math.isfinite(loss):
            wrong = [rows for (rows, _), is_bad in zip(batches, bad, strict=False) if is_bad]
            self._refuse("loss", loss, [row for rows in wrong for row in rows])
        norm = self.learner.gradient_norm()
        if not math.isfinite(norm):
            self._refuse("gradient", norm, [row for rows, _ in batches for row in rows])
        rate = settings.rate(self.step, self.max_steps)
        self.learner.step(rate)
        stop = "signal" if signalled else "time" if late else ""
        return {"loss": loss, "lr": rate, "grad_norm": norm, "stop": stop}

    def _is_broken(self, loss: float) -> bool:
        """Whether to leave out a batch's backward pass: where parameters are sharded, all do."""
        broken = not math.isfinite(loss)
        return self.processes.any(broken) if self.learner.sharded else broken

    def _wishes(self) -> tuple[float, float]:
        """Whether this process was told to stop, and whether its time is over."""
        limit = self.settings.stop_after_s
        late = limit and time.monotonic() - self._started > limit
        return float(bool(self._signals)), float(bool(late))

    def _autocast(self) -> Any:
        bf16 = self.settings.precision == "bf16"
        return torch.autocast(self.processes.device.type, torch.bfloat16, enabled=bf16)

    def _refuse(self, what: str, value: float, rows: list[int]) -> None:
        found = [row for part in self.processes.gather(rows) for row in part]
        ids = getattr(self.dataset, "ids", None)
        names = ", ".join(str(row if ids is None else ids[row]) for row in found[:64])
        raise TrainingError(
            f"the {what} must be a finite number, got {value} at step {self.step + 1} for samples "
            f"{names}; look at these samples, or try a lower learning_rate or precision=float32"
        )

    def _add(self, name: str, value: float, weight: float) -> None:
        entry = self.sums.setdefault(name, [0.0, 0.0])
        entry[0] += value * weight
        entry[1] += weight

    def _log(self, numbers: dict[str, float], *, force: bool) -> None:
        self._add("loss", numbers["loss"], 1.0)
        self._add("grad_norm", numbers["grad_norm"], 1.0)
        self.tracking.advance(self.step)
        if not force and self.step % self.settings.log_every:
            return
        sums = self._gathered()
        self.sums = {}
        means = {name: value / weight for name, (value, weight) in sums.items()}
        seconds = round(self.seconds + time.monotonic() - self._started, 3)
        line = {"loss": means.pop("loss"), "lr": numbers["lr"], **means, "seconds": seconds}
        self.tracking.write(self.step, line)

    def _gathered(self) -> dict[str, list[float]]:
        """Return the sums of all processes together."""
        sums: dict[str, list[float]] = {}
        for part in self.processes.gather(self.sums):
            for name, (value, weight) in part.items():
                entry = sums.setdefault(name, [0.0, 0.0])
                entry[0], entry[1] = entry[0] + value, entry[1] + weight
        return sums

    def _evaluate(self) -> None:
        settings = self.settings
        self.task.model.eval()
        with seeded(settings.seed, self.step), _kept_cuda(self.processes.device), torch.no_grad():
            with self._autocast():
                numbers = self.learner.root("evaluate", self.step)
        self.metrics = self.processes.from_main(numbers)
        if self.metrics:
            self.tracking.write(self.step, {f"eval_{k}": v for k, v in self.metrics.items()})
            self._keep_best()
        self.learner.train_mode()

    def _keep_best(self) -> None:
        """Write the product if it is the best so far.

        Raises:
            TrainingError: the evaluation does not give the metric.
        """
        name, sign = self.settings.metric, 1 if self.greater else -1
        if name not in self.metrics:
            known = ", ".join(k for k in self.metrics if "/" not in k) or ", ".join(self.metrics)
            raise TrainingError(
                f"metric must be a number that the evaluation gives, got {name!r}; it gives {known}"
            )
        value = self.metrics[name]
        if not math.isfinite(value):
            logger.warning("evaluation is no number and not kept as best %s=%s", name, value)
            return
        loss = self.metrics.get("loss")
        if loss is not None and not math.isfinite(loss):
            loss = math.inf  # never the better of equals
        if self._is_best(sign * value, loss):
            self.best, self.best_loss = value, loss
            self._write_product("best")

    def _is_best(self, value: float, loss: float | None) -> bool:
        """Whether a value (greater is better) beats the best; of equals the lower loss, or later.

        A share of right replies stays 0 through the first evaluations, while the loss falls.
        """
        best = -math.inf if self.best is None else (1 if self.greater else -1) * self.best
        if value != best or loss is None or self.best_loss is None:
            return value >= best
        return loss <= self.best_loss

    def _write_product(self, name: str) -> None:
        if self.learner.sharded and not self.processes.is_main:
            self.task.save(self.output / f".{name}.partial")
        elif self.processes.is_main:
            write_folder(self.output / name, self.task.save)
        self.processes.wait()

    def _save(self) -> None:
        self.checkpoints.save(
            self.step,
            **self.learner.state(),
            state={
                "step": self.step,
                "best": self.best,
                "best_loss": self.best_loss,
                "metrics": self.metrics,
                "sums": self._gathered(),
                "seconds": self.seconds + time.monotonic() - self._started,
                "frozen": self.frozen,
                "settings": asdict(self.settings),
            },
        )

    def _finish(self) -> None:
        done = self.output / "done.json"
        if done.exists():
            return
        with torch.no_grad():
            self._write_product("final")
        if self.processes.is_main:
            values = {"step": self.step, "metrics": self.metrics, "best": self.best}
            write_text(done, json.dumps(values, indent=1) + "\n")
        self.processes.wait()


@contextmanager
def _kept_cuda(device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
