"""What a talk asks of a microphone and of speakers, whatever they are."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from llama_omni.interfaces import Audio

Fill = Callable[[Audio], None]  # fills (S,) samples in place, in the audio callback


@runtime_checkable
class Microphone(Protocol):
    """Hears from `start` on."""

    @property
    def sample_rate(self) -> int:
        """Samples per second."""
        ...

    def start(self) -> None:
        """Begin to hear.

        Raises:
            InputError: the device does not work.
        """
        ...

    def read(self) -> Audio:
        """Return the (S,) samples heard since the last call; never waits.

        Raises:
            InputError: the device is gone.
        """
        ...

    def close(self) -> None:
        """Give the device back."""
        ...


@runtime_checkable
class Speakers(Protocol):
    """Ask for sound whenever they need some."""

    @property
    def sample_rate(self) -> int:
        """Samples per second."""
        ...

    @property
    def latency_s(self) -> float:
        """Seconds from being asked for to being heard."""
        ...

    def start(self, fill: Fill) -> None:
        """Begin to ask.

        Raises:
            OutputError: the device does not work.
        """
        ...

    def close(self) -> None:
        """Play what was given, then give the device back."""
        ...
