"""What the two stages are told, beside how their runs are made."""

import math
from dataclasses import dataclass

from llama_omni.errors import ConfigError
from llama_omni.train.settings import TrainSettings, at_least


@dataclass(frozen=True, kw_only=True, slots=True)
class StageSettings(TrainSettings):
    """What both stages share. Defaults are the paper's where it says something."""

    batch_size: int = 32
    epochs: float = 3.0
    history: bool = True  # earlier turns of the conversation, spoken where they have sound
    skip_cut: bool = True  # leave out rows too long for the model; else they raise
    held_out_rows: int = 200  # at most, of each held-out split; 0: no evaluation
    held_out_batch: int = 16  # rows of one forward pass of an evaluation
    samples: int = 20  # replies written to output/samples at each evaluation
    max_new_tokens: int = 100  # of those replies
    feature_cache: str = ""  # folder for the frozen encoder's features; empty: none

    def __post_init__(self) -> None:
        TrainSettings.__post_init__(self)
        for name in ("held_out_batch", "max_new_tokens"):
            at_least(self, name, 1)
        for name in ("held_out_rows", "samples"):
            at_least(self, name, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class StageOneSettings(StageSettings):
    """Stage 1: the adapter and the LLM learn to answer speech in writing."""

    learning_rate: float = 2e-5
    llm: str = "whole"  # or "lora", or "frozen" (the adapter alone learns)
    lora_rank: int = 16
    lora_alpha: float = 32.0
    lora_dropout: float = 0.0
    lora_targets: tuple[str, ...] = (
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    )  # fmt: skip
    text_share: float = 0.0  # of the rows, whose questions are written instead of spoken
    text_source: str = ""  # written questions learnt too: a file with question and answer, "tiny"
    text_rows: int = 0  # the first so many of them; 0: all
    transcribe_share: float = 0.0  # of the rows, whose answer is what was said, word for word
    transcribe_splits: tuple[str, ...] = ()  # learnt beside "train", in this way alone: "words"
    distill_weight: float = 0.0  # of the divergence from the text-only LLM; 0: none
    distill_temperature: float = 1.0
    augment: bool = False  # vary the questions' sound, see `train.augment`

    def __post_init__(self) -> None:
        StageSettings.__post_init__(self)
        if self.llm not in ("whole", "lora", "frozen"):
            raise ConfigError(f"llm must be whole, lora or frozen, got {self.llm!r}")
        for name in ("text_share", "transcribe_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be 0 to 1, got {getattr(self, name)}")
        if not (0 <= self.distill_weight < math.inf and 0 < self.distill_temperature < math.inf):
            raise ConfigError(
                "distill_weight must be 0 or more and distill_temperature above 0, both finite, "
                f"got {self.distill_weight} and {self.distill_temperature}"
            )
        at_least(self, "lora_rank", 1)
        if not 0 < self.lora_alpha < math.inf:
            raise ConfigError(f"lora_alpha must be above 0 and finite, got {self.lora_alpha}")
        if not 0 <= self.lora_dropout < 1:
            raise ConfigError(f"lora_dropout must be 0 or more, below 1, got {self.lora_dropout}")
        for name in self.unused():
            value, usual = getattr(self, name), StageOneSettings.__dataclass_fields__[name].default
            if value != usual:
                raise ConfigError(
                    f"{name} must be left out with llm={self.llm}, got {value}; give llm=lora to "
                    "train by LoRA"
                )
        if self.augment and self.feature_cache:
            raise ConfigError("feature_cache must be empty with augment: sounds differ each time")
        if self.feature_cache and (self.transcribe_splits or self.text_source):
            raise ConfigError(
                "feature_cache must be empty with transcribe_splits or text_source: it holds the "
                "spoken questions alone"
            )
        at_least(self, "text_rows", 0)

    def unused(self) -> set[str]:
        """Return LoRA's fields where the LLM learns otherwise."""
        names = {"lora_rank", "lora_alpha", "lora_dropout", "lora_targets"}
        return set() if self.llm == "lora" else names


@dataclass(frozen=True, kw_only=True, slots=True)
class StageTwoSettings(StageSettings):
    """Stage 2: the speech decoder learns to say the answer's units; all else is frozen."""

    learning_rate: float = 2e-4
    ctc_states: str = "predicting"  # the paper; "labelled": the release's one position later
    too_long: str = "stretch"  # targets beyond lambda frames a token; or "skip", or "raise"
    state_cache: str = ""  # folder for the frozen LLM's states; empty: compute them each time
    cache_dtype: str = "float16"  # or "float32"
    collapse_warn: int = 500  # optimiser steps of nothing but blanks until a warning; 0: never
    collapse_stop: int = 2000  # until the run is stopped; 0: never

    def __post_init__(self) -> None:
        StageSettings.__post_init__(self)
        for name in ("collapse_warn", "collapse_stop"):
            at_least(self, name, 0)
        for name, known in (
            ("ctc_states", ("predicting", "labelled")),
            ("too_long", ("stretch", "skip", "raise")),
            ("cache_dtype", ("float16", "float32")),
        ):
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}"
                )
