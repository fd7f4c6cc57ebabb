"""How much is measured, and what a measured number looks like."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from llama_omni.errors import ConfigError

UNITS_PER_TOKEN = 10.8  # 553.6 reduced units an answer over about 51 tokens
ANSWER_TOKENS = 51  # the paper's mean answer
FIRST_AUDIO_CHUNKS = (10, 20, 40, 100, None)  # Omega; None is infinity
Clock = Callable[[], float]


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchSettings:
    """How much is measured. Defaults are a published run's."""

    repeats: int = 5  # rounds of everything; each is one sample of every number
    questions_s: tuple[float, ...] = (3.0, 8.0)  # seconds of made-up speech
    chunk_sizes: tuple[int | None, ...] = FIRST_AUDIO_CHUNKS
    positions: tuple[int, ...] = (32, 64, 128, 256, 512, 1024)  # index of the token being made
    steps: int = 8  # steps timed at a position in one round
    reply_tokens: int = ANSWER_TOKENS
    loadings: int = 3  # times that the weights are read from a folder; 0 writes none
    offline_budget_s: float = 20.0  # recomputing at one position may take this long in all

    def __post_init__(self) -> None:
        for name in ("repeats", "steps", "reply_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"bench.{name} must be at least 1, got {getattr(self, name)}")
        if not self.questions_s or min(self.questions_s) <= 0:
            raise ConfigError(f"bench.questions_s must be lengths above 0, got {self.questions_s}")
        if not self.positions or min(self.positions) < 1:
            raise ConfigError(f"bench.positions must be at least 1, got {self.positions}")


QUICK = BenchSettings(
    repeats=3, questions_s=(3.0,), chunk_sizes=(10, 40, None), positions=(32, 64, 256), steps=4
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """Several runs of one number."""

    median: float
    low: float
    high: float
    runs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Summarise at least one run."""
        return cls(
            median=statistics.median(values), low=min(values), high=max(values), runs=len(values)
        )


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work: Callable[[], object], device: torch.device, clock: Clock) -> float:
    """Time one call, device included."""
    synchronize(device)
    begun = clock()
    work()
    synchronize(device)
    return clock() - begun
