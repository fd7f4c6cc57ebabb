"""The tiny model's report card, `docs/results/tiny.md`: held-out questions asked and heard.

Everything is kept as it comes (`settings.work`), so that a run that was stopped goes on where it
was. The same model and data give the same page, but for its times.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llama_omni import audio
from llama_omni.assistant import LlamaOmniAssistant
from llama_omni.backends.asr import open_recognizer
from llama_omni.bench.machine import describe
from llama_omni.bench.report import check_folder
from llama_omni.bench.tiny.asking import HeldOut, ask_all, ask_real
from llama_omni.bench.tiny.hearing import (
    DOMAIN,
    GENERIC,
    Vocode,
    domain_language_model,
    hear_all,
    heard_key,
)
from llama_omni.bench.tiny.page import markdown
from llama_omni.bench.tiny.pictures import plot
from llama_omni.bench.tiny.samples import write_samples
from llama_omni.bench.tiny.scores import score
from llama_omni.bench.tiny.settings import TinySettings
from llama_omni.errors import MissingExtraError
from llama_omni.interfaces import Assistant, Audio, Recognizer

__all__ = ["TinySettings", "fingerprint", "measure_tiny", "vocode_with"]

logger = logging.getLogger(__name__)


def measure_tiny(
    settings: TinySettings,
    assistant: Assistant,
    *,
    vocode: Vocode | None = None,
    recognizers: Mapping[str, Recognizer] | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Ask, hear, and write the page, its numbers, its picture and its samples.

    Args:
        settings: what is measured, and where it goes.
        assistant: what is asked.
        vocode: speaks true units; None leaves that column out.
        recognizers: by the name of their language model; None is PocketSphinx with its generic
            one and with one of the training's answers.
        command: what the page says it was made by.

    Returns:
        What the JSON file holds.

    Raises:
        InputError: the data set lacks a split, or there are no recordings.
        MissingExtraError: a package of the extra "evaluate" is not installed.
        OutputError: something cannot be written.
    """
    check_folder(settings.output.parent)
    held_out = HeldOut(settings)
    if recognizers is None:
        model = domain_language_model(settings.data, settings.work)
        recognizers = {
            GENERIC: open_recognizer("pocketsphinx"),
            DOMAIN: open_recognizer(f"pocketsphinx:{model}"),
        }
    replies = ask_all(settings, assistant, held_out)
    real = None
    if settings.questions is not None:
        real = ask_real(settings, assistant, settings.questions)
    heard = hear_all(settings, held_out, replies, recognizers, vocode)
    samples = write_samples(settings, held_out, replies, vocode)
    for row in samples:
        places = [heard_key(name, "reply", row["key"]) for name in recognizers]
        row["heard"] = heard[places[-1]]["text"] if places and places[-1] in heard else ""
    stem = settings.output.name
    picture = settings.output.with_name(f"{stem}.png")
    result: dict[str, Any] = {
        "model": settings.model_name,
        "data": settings.data.resolve().name,
        "command": command,
        "machine": describe(*_placed(assistant)),
        "scores": score(settings, held_out, replies, heard, recognizers, real),
        "samples": samples,
        "picture": picture.name,
        "trained": sorted(settings.rules.trained),
    }
    try:
        plot(result["scores"], picture, f"{settings.model_name}, held-out questions")
    except MissingExtraError as error:
        logger.warning("plot skipped reason=%s", error)
        result["picture"] = None
    for suffix, text in (("json", json.dumps(result, indent=1)), ("md", markdown(result))):
        file = settings.output.with_name(f"{stem}.{suffix}")
        file.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
    return result


def vocode_with(assistant: LlamaOmniAssistant) -> Vocode:
    """Return what speaks units with an assistant's vocoder, at 16 kHz."""

    @torch.inference_mode()
    def vocode(units: list[int]) -> Audio:
        vocoder = assistant.vocoder
        sound = vocoder(torch.tensor(units, dtype=torch.long, device=vocoder.device))
        samples = sound.float().cpu().numpy().astype(np.float32)
        return audio.resample(samples, vocoder.sample_rate, audio.SAMPLE_RATE)

    return vocode


def fingerprint(model: Path | None, data: Path) -> str:
    """Return a name for replies that only the same weights and the same data give."""
    digest = hashlib.sha256((data / "manifest.json").read_bytes())
    files = sorted(path for path in model.rglob("*") if path.is_file()) if model else []
    for file in files:
        digest.update(str(file.relative_to(model or file)).encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:12]


def _placed(assistant: Assistant) -> tuple[torch.device, torch.dtype]:
    if isinstance(assistant, LlamaOmniAssistant):
        return assistant.model.device, assistant.model.dtype
    return torch.device("cpu"), torch.float32
