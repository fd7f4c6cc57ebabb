"""`QualityModel`: what hears how good speech sounds, whatever is said."""

from typing import Protocol, runtime_checkable

from llama_omni.interfaces import Audio


@runtime_checkable
class QualityModel(Protocol):
    """A predictor of mean opinion scores, without a reference to compare with."""

    @property
    def name(self) -> str:
        """Its name, with what tells its weights from others; values depend on it."""
        ...

    @property
    def missing(self) -> str | None:
        """What is not here and how it is had; None: it can score."""
        ...

    def score(self, audio: Audio) -> dict[str, float]:
        """Return the scores of 16 kHz speech by their names, each about 1 (bad) to 5.

        Args:
            audio: (S,) of any length from 0.1 s.

        Raises:
            AudioError: the sound cannot be used.
            CheckpointError: the weights cannot be read.
        """
        ...
