"""UTMOS: the naturalness of speech by `utmos22_strong`, the predictor of the paper's tables.

This file is light; what needs torch is in `utmos_network`, imported when the first sound comes.

Source:
    arXiv:2204.02152; weights as released by github.com/tarepan/SpeechMOS, v1.0.0.
"""

import hashlib
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llama_omni import audio as sound
from llama_omni.interfaces import Audio

if TYPE_CHECKING:
    from llama_omni.backends.utmos_network import UtmosNetwork

LONGEST = 60 * sound.SAMPLE_RATE  # samples heard at once: attention grows with their square
RELEASE = "https://github.com/tarepan/SpeechMOS/releases/tag/v1.0.0"


class Utmos:
    """The strong learner's `utmos`, about 1 to 5; a `QualityModel`.

    Speech up to 60 s is heard whole, as published; longer speech is cut into equal spans that
    are, and their scores are averaged. The waveform is taken as it is, at 16 kHz.

    Args:
        weights: the released `.pt`, or the same tensors in a `.safetensors`; read when needed.
        device: where it computes.
    """

    def __init__(self, weights: str | PathLike[str], *, device: str = "cpu") -> None:
        self.weights, self.device = Path(weights), device

    @property
    def missing(self) -> str | None:
        """Whether the weights are there, and where they are had."""
        if self.weights.is_file():
            return None
        return (
            f"the weights of UTMOS must be a file, got none at {self.weights}: fetch "
            f"utmos22_strong_step7459_v1.pt of {RELEASE}"
        )

    @cached_property
    def name(self) -> str:
        """The predictor and the hash of its file."""
        with self.weights.open("rb") as file:
            return f"utmos22_strong {hashlib.file_digest(file, 'sha256').hexdigest()[:12]}"

    def score(self, audio: Audio) -> dict[str, float]:
        """Return `utmos` of 16 kHz speech.

        Raises:
            AudioError: the sound cannot be used.
            CheckpointError: the weights cannot be read, or a tensor is missing or unknown.
        """
        samples = sound.check(audio, max_s=float("inf"))
        count = -(-len(samples) // LONGEST)
        found = [self._network.score(span) for span in np.array_split(samples, count)]
        return {"utmos": float(np.mean(found))}

    @cached_property
    def _network(self) -> "UtmosNetwork":
        from llama_omni.backends.utmos_network import load_utmos

        return load_utmos(self.weights, device=self.device)
