"""What the tiny model's report is made from and what counts as right in it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from llama_omni.data import domain
from llama_omni.errors import ConfigError

SPLITS = ("test_seen", "test_unseen")  # held-out questions by voices of the training, by others
OUTSIDE = "outside"  # questions that are to be refused


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """What is right."""

    accepts: Callable[[str, str], bool]  # (the data set's answer, a reply)
    refusal: str  # what is said to a question from outside the domain
    gate: frozenset[str]  # intents of the headline; all others are reported apart
    trained: frozenset[str]  # of them, those whose very questions are trained

    def refuses(self, reply: str) -> bool:
        """Tell whether a reply is the refusal."""
        return self.accepts(self.refusal, reply)


def domain_rules() -> Rules:
    """Return the rules of the domain that the tiny model is trained on."""
    return Rules(
        accepts=domain.accepts,
        refusal=domain.REFUSAL,
        gate=frozenset(domain.GATE_INTENTS),
        trained=frozenset(domain.TRAINED_INTENTS),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class TinySettings:
    """Where everything is and how much of it is measured."""

    data: Path  # a data set folder with the splits above and "train"
    output: Path  # OUTPUT.md, OUTPUT.json, OUTPUT.png; samples lie beside, in samples/
    work: Path  # replies and transcripts as they come; a later run goes on from there
    model_name: str = "model"
    questions: Path | None = None  # real recordings, all out of domain
    limit: int | None = None  # questions of each split; None is all
    heard: int | None = 200  # questions of each split whose sound is recognised; None is all
    samples: int = 6
    max_new_tokens: int = 256  # of a reply
    seed: int = 0  # of the intervals
    rules: Rules = field(default_factory=domain_rules)

    def __post_init__(self) -> None:
        for name in ("limit", "heard", "max_new_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        if self.samples < 0:
            raise ConfigError(f"samples must be 0 or more, got {self.samples}")
