"""Benchmarks: time to first audio, time per token, the cost of speech, memory, the roofline.

What each number means: `docs/benchmarks.md`. The rules it is measured by: ADR 0008.
"""

import logging
import time
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markdown import Markdown

from llama_omni import audio
from llama_omni.bench.first_audio import measure_first_audio
from llama_omni.bench.machine import describe
from llama_omni.bench.memory import measure_memory
from llama_omni.bench.per_token import measure_per_token
from llama_omni.bench.plots import plot
from llama_omni.bench.report import check_folder, markdown, write_report
from llama_omni.bench.roofline import measure_rates, roofline
from llama_omni.bench.settings import QUICK, BenchSettings, Clock, Spread
from llama_omni.bench.speech_cost import measure_speech_cost
from llama_omni.bench.subject import loading_s, random_subject
from llama_omni.errors import MissingExtraError
from llama_omni.interfaces import Audio

__all__ = ["QUICK", "BenchSettings", "run_bench"]

TABLE_WIDTH = 110  # columns that the widest table needs

logger = logging.getLogger(__name__)


def run_bench(
    *,
    preset: str | None = "tiny",
    device: str = "auto",
    dtype: str = "auto",
    output: str | PathLike[str] | None = None,
    quick: bool = False,
    repeats: int | None = None,
    tokens: int | None = None,
    loadings: int | None = None,
    threads: int | None = None,
    question: str | PathLike[str] | None = None,
    settings: BenchSettings | None = None,
    clock: Clock = time.perf_counter,
) -> dict[str, Any]:
    """Measure a preset with random weights, show the tables, and keep them if asked to.

    Args:
        preset: a named size; None is tiny.
        device: as in `llama_omni.load`.
        dtype: as in `llama_omni.load`.
        output: a folder for `<preset>-<device>-<dtype>.json`, `.md` and `.png`; None keeps nothing.
        quick: fewer lengths and rounds.
        repeats: rounds, in place of the settings' own.
        tokens: of the replies in (a), (c) and (d), in place of the settings' own.
        loadings: from a folder, in place of the settings' own; 0 writes no folder.
        threads: as in `llama_omni.load`.
        question: a spoken question to use in (a), in place of made-up ones.
        settings: how much is measured, in place of `quick`'s choice.
        clock: monotonic seconds.

    Returns:
        What the JSON file holds, with `Spread` values.

    Raises:
        ConfigError: an unknown preset, device or dtype, or an impossible number.
        OutputError: the folder cannot be written.
        AudioError: the question cannot be used.
    """
    preset = preset or "tiny"
    chosen = settings or (QUICK if quick else BenchSettings())
    changed = {"repeats": repeats, "reply_tokens": tokens, "loadings": loadings}
    changed = {name: value for name, value in changed.items() if value is not None}
    chosen = replace(chosen, **changed)
    if output is not None:
        check_folder(Path(output))
    sound = None if question is None else audio.load(question)
    threads_before = torch.get_num_threads()
    try:
        result = _measure(preset, device, dtype, threads, chosen, sound, clock)
    finally:
        torch.set_num_threads(threads_before)
    options: dict[str, Any] = {"repeats": repeats, "tokens": tokens, "loadings": loadings}
    options["question"] = question and "FILE"  # no paths of this machine
    result["command"] = _command(preset, result["machine"], options, quick=quick)
    _show(markdown(result))
    if output is not None:
        machine = result["machine"]
        name = "-".join((preset, machine["device"], machine["dtype"])) + "-quick" * quick
        write_report(result, Path(output), name)
        try:
            plot(result, Path(output) / f"{name}.png")
        except MissingExtraError as error:
            logger.info("plot skipped reason=%s", error)
    return result


def _measure(
    preset: str,
    device: str,
    dtype: str,
    threads: int | None,
    settings: BenchSettings,
    sound: Audio | None,
    clock: Clock,
) -> dict[str, Any]:
    begun = clock()
    subject = random_subject(preset, device=device, dtype=dtype, clock=clock, threads=threads)
    random_s = clock() - begun
    memory = measure_memory(subject, settings)  # first: later parts hold more than a reply needs
    logger.info("measuring phase=load")
    loadings = loading_s(subject, settings.loadings)
    logger.info("measuring phase=first_audio")
    first_audio = measure_first_audio(subject, settings, sound)
    logger.info("measuring phase=speech_cost")
    speech_cost = measure_speech_cost(subject, settings)
    logger.info("measuring phase=per_token")
    per_token = measure_per_token(subject, settings)
    rates = measure_rates(subject.device, subject.assistant.model.dtype, clock=clock)
    return {
        "preset": preset,
        "command": "",
        "machine": describe(subject.device, subject.assistant.model.dtype),
        "settings": settings,
        "load": {"random_s": random_s, "folder_s": Spread.of(loadings) if loadings else None},
        "first_audio": first_audio,
        "per_token": per_token,
        "speech_cost": speech_cost,
        "memory": memory,
        "roofline": roofline(subject, rates, first_audio, per_token),
    }


def _show(page: str) -> None:
    """Show the page: drawn where it has room on a terminal, else as it is."""
    console = Console()
    if console.is_terminal and console.width >= TABLE_WIDTH:
        console.print(Markdown(page))
    else:
        console.out(page, highlight=False)


def _command(preset: str, machine: dict[str, Any], options: dict[str, Any], *, quick: bool) -> str:
    """Return the command that repeats a run."""
    words = ["python -m benchmarks.run", f"--preset {preset}", f"--device {machine['device']}"]
    words += [f"--dtype {machine['dtype']}", f"--threads {machine['threads']}"]
    words += ["--quick"] * quick
    words += [f"--{name} {value}" for name, value in options.items() if value is not None]
    return " ".join(words)
