"""How a training run is made, whatever it learns."""

import math
import re
from dataclasses import dataclass, fields

from llama_omni.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainSettings:
    """Knobs of one run. A step's rows are batch_size x accumulation x processes."""

    max_steps: int = 0  # optimiser steps; 0: as many as `epochs` need
    epochs: float = 3.0
    batch_size: int = 8  # rows of one forward pass of one process
    accumulation: int = 1  # forward passes of an optimiser step
    learning_rate: float = 2e-5  # peak
    min_lr_ratio: float = 0.0  # where the cosine ends, as a share of the peak
    warmup_ratio: float = 0.03  # share of the steps over which the rate rises from 0
    schedule: str = "cosine"  # or "constant", after the same warm-up
    weight_decay: float = 0.0  # of matrices; never of norms and biases
    optimizer: str = "adamw"  # or "muon" for the matrices of layers: better steps from nothing
    beta1: float = 0.9
    beta2: float = 0.999
    max_grad_norm: float = 1.0  # 0: no clipping
    precision: str = "float32"  # or "bf16": autocast, with float32 weights and optimiser
    gradient_checkpointing: bool = False
    sharding: str = "none"  # or "fsdp": parameters, gradients, optimiser over all processes (FSDP2)
    seed: int = 0
    bucket: int = 50  # steps whose rows are sorted by length together; 1: no grouping
    save_every: int = 500  # steps between checkpoints
    eval_every: int = 500  # steps between evaluations; 0: only at the end
    log_every: int = 10  # steps between lines of metrics.jsonl
    keep: int = 2  # newest checkpoints; the best product is kept apart
    workers: int = 0  # loader processes; 0: load between steps
    metric: str = "loss"  # of `evaluate`, which decides what is best
    greater_is_better: bool | None = None  # of the metric; None: told by its name
    device: str = "auto"  # CUDA if there is one, "cpu", "cuda", "cuda:1"
    stop_after_s: float = 0.0  # save and return after so many seconds of this call; 0: never
    tensorboard: bool = True  # where it is installed
    wandb_project: str = ""  # Weights & Biases; empty: none

    def __post_init__(self) -> None:
        for name in ("batch_size", "accumulation", "bucket", "save_every", "log_every", "keep"):
            at_least(self, name, 1)
        for name in ("max_steps", "eval_every", "workers", "weight_decay", "max_grad_norm"):
            at_least(self, name, 0)
        for name in ("stop_after_s", "seed"):
            at_least(self, name, 0)
        if not self.max_steps and not 0 < self.epochs < math.inf:
            raise ConfigError(
                f"epochs must be above 0 and finite without max_steps, got {self.epochs}"
            )
        if not 0 < self.learning_rate < math.inf:
            raise ConfigError(f"learning_rate must be above 0, got {self.learning_rate}")
        for name in ("min_lr_ratio", "warmup_ratio"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be 0 to 1, got {getattr(self, name)}")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(
                    f"{name} must be 0 or more and below 1, got {getattr(self, name)}"
                )
        _one_of(self, "schedule", ("cosine", "constant"))
        _one_of(self, "precision", ("float32", "bf16"))
        _one_of(self, "optimizer", ("adamw", "muon"))
        _one_of(self, "sharding", ("none", "fsdp"))
        if self.optimizer == "muon" and self.sharding != "none":
            raise ConfigError(f"sharding must be none with optimizer=muon, got {self.sharding!r}")

    def unused(self) -> set[str]:
        """Return fields that mean nothing beside the others: a run is the same without them."""
        return set()

    def steps(self, num_rows: int, processes: int) -> int:
        """Return the optimiser steps of a run over so many rows."""
        rows = self.batch_size * self.accumulation * processes
        return self.max_steps or max(1, math.ceil(self.epochs * num_rows / rows))

    def rate(self, step: int, max_steps: int) -> float:
        """Return the learning rate of a step (from 0): linear warm-up, then the schedule."""
        warm = max(1, round(self.warmup_ratio * max_steps))
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        if self.schedule == "constant":
            return self.learning_rate
        progress = (step - warm) / max(1, max_steps - warm)
        cosine = 0.5 * (1 + math.cos(math.pi * progress))
        return self.learning_rate * (self.min_lr_ratio + (1 - self.min_lr_ratio) * cosine)


# May differ when a run is resumed: they change nothing that is learnt, but for rounding (what is
# kept in a cache has 16 bits). The rows of a step are compared instead of the three numbers that
# make them.
FREE_TO_CHANGE = {
    "max_steps", "epochs", "batch_size", "accumulation", "gradient_checkpointing", "save_every",
    "log_every", "keep", "workers", "device", "stop_after_s", "tensorboard", "wandb_project",
    "held_out_batch", "samples", "collapse_warn", "collapse_stop", "state_cache", "feature_cache",
    "text_source",  # a path: what was read from it is compared instead, by its hash
}  # fmt: skip
_GREATER = {"accuracy", "exact", "recall", "precision", "f1", "bleu", "score"}
_LESS = {"loss", "error", "wer", "cer", "perplexity", "distance", "divergence"}
FIELDS = tuple(item.name for item in fields(TrainSettings))


def greater_is_better(metric: str) -> bool:
    """Return which way a metric is better, by the words of its name.

    Raises:
        ConfigError: it does not tell.
    """
    words = set(re.split(r"[\W_]", metric.lower()))
    better, worse = bool(words & _GREATER), bool(words & _LESS)
    if better == worse:
        raise ConfigError(
            f"metric must have a name that tells which way is better, or greater_is_better must be "
            f"true or false, got {metric!r} and none"
        )
    return better


def at_least(settings: TrainSettings, name: str, least: int) -> None:
    """Refuse a value below a limit, or that is no number.

    Raises:
        ConfigError: it is so.
    """
    value = getattr(settings, name)
    if not value >= least:
        raise ConfigError(f"{name} must be at least {least}, got {value}")


def _one_of(settings: TrainSettings, name: str, known: tuple[str, ...]) -> None:
    value = getattr(settings, name)
    if value not in known:
        raise ConfigError(f"{name} must be {' or '.join(known)}, got {value!r}")
