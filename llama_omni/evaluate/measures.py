"""The measures by their names."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from llama_omni.errors import ConfigError
from llama_omni.evaluate.accuracy import AccuracyMeasure
from llama_omni.evaluate.asr_error import AsrControlMeasure, AsrMeasure
from llama_omni.evaluate.judge_measure import JudgeMeasure
from llama_omni.evaluate.measure_settings import MeasureSettings
from llama_omni.evaluate.quality import dnsmos_measure, utmos_measure
from llama_omni.evaluate.records import Measure
from llama_omni.evaluate.text_rates import TextMeasure
from llama_omni.evaluate.timing import TimingMeasure
from llama_omni.evaluate.transcripts import Transcripts


def _transcripts(settings: MeasureSettings) -> Transcripts | None:
    if settings.transcripts is not None:
        return settings.transcripts
    if not settings.asr or settings.open_recognizer is None:
        return None
    return Transcripts(settings.asr, partial(settings.open_recognizer, settings.asr))


def _control(settings: MeasureSettings) -> AsrControlMeasure:
    recognizer = voice = None
    transcripts = _transcripts(settings)
    if transcripts is not None:
        recognizer = transcripts.name, lambda: transcripts.recognizer
    if settings.control_voice and settings.open_synthesizer is not None:
        program = settings.control_voice.partition(":")[0]
        voice = settings.control_voice, partial(settings.open_synthesizer, program)
    return AsrControlMeasure(recognizer, voice)


MEASURES: dict[str, Callable[[MeasureSettings], Measure]] = {
    "timing": lambda _: TimingMeasure(),
    "text": lambda _: TextMeasure(),
    "accuracy": lambda settings: AccuracyMeasure(_transcripts(settings)),
    "asr": lambda settings: AsrMeasure(_transcripts(settings)),
    "asr_control": _control,
    "utmos": lambda settings: utmos_measure(settings.utmos),
    "dnsmos": lambda settings: dnsmos_measure(settings.dnsmos),
    "judge": lambda settings: JudgeMeasure(settings.judge, _transcripts(settings)),
}


def make_measures(names: Sequence[str], settings: MeasureSettings) -> list[Measure]:
    """Return measures by their names, in the order of the table above.

    Raises:
        ConfigError: there is none of that name; lists those that there are.
    """
    for name in names:
        if name not in MEASURES:
            raise ConfigError(f"--metrics must be of {', '.join(MEASURES)}, got {name!r}")
    # One recogniser for all measures: a large one would not fit into memory three times.
    settings = replace(settings, transcripts=_transcripts(settings))
    return [make(settings) for name, make in MEASURES.items() if name in names]
