"""Knobs of vocoder training, and the two measured ways to set them."""

import math
from dataclasses import dataclass
from typing import Literal

from llama_omni.errors import ConfigError

# May differ when a run is resumed: they change nothing that is learnt.
FREE_TO_CHANGE = (
    "save_every eval_every log_every keep samples device stop_after_s tensorboard".split()
)
_POSITIVE = (
    "max_steps batch_size accumulation save_every eval_every log_every keep held_out segment_s "
    "max_hours learning_rate max_grad_norm"
).split()
_FRAME_S = 0.02  # of units; a segment of none has no sound
_NOT_NEGATIVE = (
    "mel_weight stft_weight duration_weight feature_weight weight_decay samples seed "
    "stop_after_s".split()
)


@dataclass(frozen=True, kw_only=True, slots=True)
class VocoderSettings:
    """Knobs of vocoder training. Defaults: the light generator on one CPU core.

    Raises:
        ConfigError: for impossible values.
    """

    max_steps: int = 3000  # of the optimiser
    batch_size: int = 16  # segments of one device and accumulation step
    accumulation: int = 1
    segment_s: float = 1.0  # seconds of a segment; rounded to whole frames
    learning_rate: float = 8e-4
    schedule: Literal["cosine", "exponential"] = "cosine"
    warmup_ratio: float = 0.03  # of all steps; cosine only
    decay: float = 0.999  # for each epoch; exponential only
    beta1: float = 0.8
    beta2: float = 0.99
    weight_decay: float = 0.01
    optimizer: Literal["adamw", "muon"] = "adamw"  # muon: the light generator's matrices
    max_grad_norm: float = 10.0
    mel_weight: float = 15.0
    stft_weight: float = 2.5  # of the multi-resolution STFT loss; 0 leaves it out
    duration_weight: float = 1.0
    feature_weight: float = 2.0  # of the discriminators' feature matching
    adversarial_from: int | None = None  # the step that discriminators begin at; None: never
    discriminator_divisor: int = 1  # of their channels, 1 to 32; 4 and above suit a CPU
    precision: Literal["float32", "bf16"] = "float32"
    seed: int = 0
    max_hours: float = 24.0  # of speech read from the set, drawn by the seed where it has more
    held_out: int = 16  # answers kept from training to measure with
    samples: int = 4  # of them written as sound at each evaluation
    save_every: int = 250
    eval_every: int = 500
    log_every: int = 10
    keep: int = 2  # newest checkpoints
    device: str = "auto"  # CUDA if there is one, "cpu", "cuda", "cuda:1"
    stop_after_s: float = 0.0  # save and return after so many seconds of this call; 0: never
    tensorboard: bool = True  # where it is installed

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be above 0, got {self.show(name)}")
        for name in _NOT_NEGATIVE:
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} must be at least 0, got {self.show(name)}")
        if not _FRAME_S <= self.segment_s < math.inf:
            raise ConfigError(
                f"segment_s must be at least {_FRAME_S}, a frame, and finite, got {self.segment_s}"
            )
        for name in ("warmup_ratio", "beta1", "beta2"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ConfigError(f"{name} must be in [0, 1), got {self.show(name)}")
        if not 0.0 < self.decay <= 1.0:
            raise ConfigError(f"decay must be in (0, 1], got {self.decay}")
        if self.adversarial_from is not None and self.adversarial_from < 0:
            raise ConfigError(f"adversarial_from must be at least 0, got {self.adversarial_from}")
        if self.discriminator_divisor not in (1, 2, 4, 8, 16, 32):
            raise ConfigError(
                "discriminator_divisor must be 1, 2, 4, 8, 16 or 32, "
                f"got {self.discriminator_divisor!r}"
            )
        for name, known in (
            ("schedule", ("cosine", "exponential")),
            ("precision", ("float32", "bf16")),
            ("optimizer", ("adamw", "muon")),
        ):
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"{name} must be one of {', '.join(known)}, got {self.show(name)}"
                )

    def show(self, name: str) -> str:
        """Return one value as a message shows it."""
        return repr(getattr(self, name))

    def rate(self, step: int, epoch: int) -> float:
        """Return the learning rate of a step (from 0), which is in so many epochs."""
        if self.schedule == "exponential":
            return self.learning_rate * self.decay**epoch
        warm = max(1, round(self.warmup_ratio * self.max_steps))
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        progress = (step - warm) / max(1, self.max_steps - warm)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))

    @property
    def is_adversarial(self) -> bool:
        """Discriminators are used at some step."""
        return self.adversarial_from is not None and self.adversarial_from < self.max_steps


def hifigan_settings(**changes: object) -> VocoderSettings:
    """Return HiFi-GAN's own knobs: adversarial from the start, for a GPU and many hours.

    Source:
        HiFi-GAN (arXiv 2010.05646), V1; fairseq's code HiFi-GAN for segments and durations.
    """
    known: dict[str, object] = {
        "max_steps": 500_000,
        "segment_s": 0.56,  # 8,960 samples
        "learning_rate": 2e-4,
        "schedule": "exponential",
        "mel_weight": 45.0,
        "stft_weight": 0.0,
        "max_grad_norm": 1000.0,
        "adversarial_from": 0,
        "save_every": 5000,
        "eval_every": 5000,
        "log_every": 100,
    }
    return VocoderSettings(**(known | changes))  # pyright: ignore[reportArgumentType]
