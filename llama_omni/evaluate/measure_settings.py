"""What the measures need that only the caller can give: recognisers, voices, judges, models.

Everything that reaches torch comes as a callable that makes it, so that this package never does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llama_omni.interfaces import Recognizer, Synthesizer


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasureSettings:
    """What the measures are made with; what is None is reported as absent."""

    asr: str = ""  # the recogniser's name
    open_recognizer: Callable[[str], Recognizer] | None = None  # from its name
    control_voice: str = ""  # says the replies' texts, as the recogniser's own control
    open_synthesizer: Callable[[str], Synthesizer] | None = None  # from the voice's program
    utmos: Callable[[], Any] | None = None  # makes a `QualityModel`
    dnsmos: Callable[[], Any] | None = None
    judge: Any | None = None  # a judge's settings, see `judge`
