"""What `llama-omni evaluate` measures with, by its options: recognisers, voices, models, judges."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llama_omni.errors import ConfigError

if TYPE_CHECKING:
    from llama_omni.evaluate.judge import Judge
    from llama_omni.evaluate.measure_settings import MeasureSettings

METRICS = "timing,text,accuracy"

Metrics = Annotated[
    str,
    typer.Option(
        help="With commas: timing, text, accuracy, asr, asr_control, utmos, dnsmos, judge.",
        metavar="NAMES",
    ),
]
Asr = Annotated[
    str,
    typer.Option(
        help="Recogniser of the replies' speech: pocketsphinx, pocketsphinx:FILE.lm, or "
        "whisper:FOLDER_OR_HUB_ID.",
        metavar="NAME",
        show_default="none",
    ),
]
ControlVoice = Annotated[
    str,
    typer.Option(
        help="Says the replies' texts for asr_control, such as flite:rms.",
        metavar="VOICE",
        show_default="none",
    ),
]
Utmos = Annotated[
    Path | None,
    typer.Option(
        help="UTMOS's weights, utmos22_strong_step7459_v1.pt.", metavar="FILE", show_default="none"
    ),
]
JudgeUrl = Annotated[
    str,
    typer.Option(
        help="A server of OpenAI's chat protocol, for judge.", metavar="URL", show_default="none"
    ),
]
JudgeModel = Annotated[
    str, typer.Option(help="The judge, by the server's name.", metavar="NAME", show_default="none")
]


def make_judge(url: str, model: str, samples: int, **chat: Any) -> "Judge | None":
    """Make the judge that the options name; None: they name none.

    Raises:
        ConfigError: only one of server and model is named, or an option is impossible.
    """
    if not url and not model:
        return None
    if not url or not model:
        raise ConfigError("--judge-url and --judge-model must be given together, got one of them")
    from llama_omni.backends.chat_options import ChatOptions
    from llama_omni.evaluate.judge import Judge, JudgeOptions

    options = ChatOptions(base_url=url, model=model, **chat)
    return Judge(JudgeOptions(chat=options, samples=samples))


def measure_settings(
    asr: str, control_voice: str, utmos: Path | None, judge: "Judge | None", device: str
) -> "MeasureSettings":
    """Return what the measures are made with."""
    from llama_omni.evaluate.measure_settings import MeasureSettings

    def recognizer(name: str) -> Any:
        from llama_omni.backends.asr import open_recognizer

        return open_recognizer(name, device=device)

    return MeasureSettings(
        asr=asr,
        open_recognizer=recognizer if asr else None,
        control_voice=control_voice,
        open_synthesizer=make_synthesizer if control_voice else None,
        utmos=None if utmos is None else lambda: _utmos(utmos, device),
        dnsmos=_dnsmos,
        judge=judge,
    )


def _utmos(weights: Path, device: str) -> Any:
    from llama_omni.backends.utmos import Utmos

    return Utmos(weights, device="cpu" if device == "auto" else device)


def _dnsmos() -> Any:
    from llama_omni.backends.dnsmos import Dnsmos

    return Dnsmos()


def make_synthesizer(name: str) -> Any:
    """Open a voice's program."""
    from llama_omni.backends.tts import open_synthesizer

    return open_synthesizer(name)
