"""Who gets the next step: arithmetic on how far each reply is ahead of its listener.

No torch and no clock: the time comes in. A reply is *ahead* by the seconds of its sound that were
given and cannot have been played yet.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from llama_omni.engine.settings import EngineSettings


class Playback:
    """When a listener who plays at once will have played all that was given.

    A listener who runs dry waits for more; what comes then is played from then on. A reply that is
    not committed has no listener, so its sound only adds up.
    """

    def __init__(self) -> None:
        self._until: float | None = None  # None: not committed
        self._held_s = 0.0  # given before the reply was committed
        self._begun = False

    def start(self, now: float) -> None:
        """Let the listener begin with what is there."""
        if self._until is None:
            self._until = now + self._held_s

    def give(self, seconds: float, now: float) -> None:
        """Count sound that leaves now."""
        self._begun = True
        if self._until is None:
            self._held_s += seconds
        else:
            self._until = max(self._until, now) + seconds

    def ahead_s(self, now: float) -> float:
        """Return the seconds of sound that are buffered; 0 where the listener waits."""
        return self._held_s if self._until is None else max(0.0, self._until - now)

    def is_dry(self, now: float) -> bool:
        """Tell whether a listener who has begun waits for more."""
        return self._until is not None and self._begun and self._until <= now


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """What the schedule knows of a reply that could get a token."""

    ahead_s: float
    committed: bool
    served: int  # step of its last token; of equals the one served longest ago goes first


def choose_rows(
    standings: Sequence[Standing], settings: EngineSettings, *, newcomers: bool
) -> list[int]:
    """Choose the replies that the next step gives a token.

    While a listener may run dry, or a committed newcomer is being read, replies that are far ahead
    or not committed get none, but for the rows that cost nothing. None of them starves: what is
    buffered is played, and then they are no longer far ahead.

    Args:
        standings: of the replies that could get one.
        settings: the limits.
        newcomers: committed replies have their questions read in this step.

    Returns:
        Indices, the most urgent first.
    """
    ready = [
        index
        for index, row in enumerate(standings)
        if row.committed or row.ahead_s < settings.prepare_s
    ]

    def yields(index: int) -> bool:
        row = standings[index]
        return not row.committed or row.ahead_s >= settings.far_ahead_s

    ready.sort(key=lambda i: (yields(i), standings[i].ahead_s, standings[i].served))
    urgent = newcomers or any(
        standings[i].committed and standings[i].ahead_s < settings.low_water_s for i in ready
    )
    count = len(ready)
    if urgent:
        needed = sum(not yields(index) for index in ready)
        count = max(needed, settings.cheap_rows)
    return ready[: min(count, settings.max_rows)]


def chunk_units(
    first: int | None, *, ahead_s: float, units_per_s: float | None, settings: EngineSettings
) -> int | None:
    """Return the units that a reply's next chunk waits for; None is all of the reply.

    Args:
        first: Omega: size of the first chunk, and the least of any.
        ahead_s: what the listener has buffered; a chunk may take that long to be made.
        units_per_s: of the reply's sound; None before its first sound.
        settings: `chunk_growth` and `max_chunk_s`.
    """
    if first is None or units_per_s is None:
        return first
    lasts_s = min(settings.chunk_growth * ahead_s, settings.max_chunk_s)
    return max(first, int(lasts_s * units_per_s))
