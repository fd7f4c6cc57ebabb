"""What the measures need that only the caller can give: recognisers, voices, judges, models.

Everything that reaches torch comes as a callable that makes it, so that this package never does.
"""

from collections.abc import Callable
from dataclasses import dataclass

from llama_omni.evaluate.judge import Judge
from llama_omni.evaluate.quality_model import QualityModel
from llama_omni.evaluate.transcripts import Transcripts
from llama_omni.interfaces import Recognizer, Synthesizer


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasureSettings:
    """What the measures are made with; what is None is reported as absent."""

    asr: str = ""  # the recogniser's name
    open_recognizer: Callable[[str], Recognizer] | None = None  # from its name
    transcripts: Transcripts | None = None  # by that recogniser, shared; None: made from the above
    control_voice: str = ""  # says the replies' texts, as the recogniser's own control
    open_synthesizer: Callable[[str], Synthesizer] | None = None  # from the voice's program
    utmos: Callable[[], QualityModel] | None = None
    dnsmos: Callable[[], QualityModel] | None = None
    judge: Judge | None = None
