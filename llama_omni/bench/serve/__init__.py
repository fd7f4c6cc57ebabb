"""Load: N real-time clients at once, against a server or an engine, until the device is full.

What each number means: `docs/benchmarks.md`.
"""

import asyncio
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llama_omni import audio
from llama_omni.bench.machine import describe
from llama_omni.bench.report import check_folder
from llama_omni.bench.serve.cells import DirectBench, SocketBench
from llama_omni.bench.serve.direct import made_up
from llama_omni.bench.serve.page import write
from llama_omni.bench.serve.settings import DirectSettings, LoadSettings
from llama_omni.bench.serve.speech import questions
from llama_omni.bench.serve.subject import factory, placed
from llama_omni.bench.serve.sweep import about, open_journal, sweep
from llama_omni.bench.serve.turns import RATE
from llama_omni.errors import ConfigError
from llama_omni.interfaces import ReplyOptions

__all__ = ["DirectSettings", "LoadSettings", "measure_load"]

SPARE_SESSIONS = 8  # of clients that have left a moment ago


def measure_load(
    settings: LoadSettings,
    *,
    direct: DirectSettings | None = None,
    preset: str | None = None,
    model: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    threads: int | None = None,
    question: Path | None = None,
    output: Path | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Measure, and write JSON, tables and plot; a run that was stopped goes on where it was.

    Args:
        settings: what the clients do.
        direct: drive the engine without a server; None starts `llama-omni serve`.
        preset: a size with random weights; only directly, for their units need a schedule.
        model: a folder or hub id, in place of the embedded model.
        device: as in `llama_omni.load`.
        dtype: as in `llama_omni.load`.
        threads: as in `llama_omni.load`.
        question: a recorded question, in place of spoken ones.
        output: a folder; None keeps nothing.
        command: what the page says it was made by.

    Returns:
        What the JSON file holds.

    Raises:
        ConfigError: options that exclude each other, or an unknown preset.
        EngineError: the server or the engine cannot be started, or was lost.
        InputError: a run with other settings was stopped here.
        OutputError: the folder cannot be written.
    """
    if preset is not None and (model is not None or direct is None):
        raise ConfigError(
            "a preset must be driven directly (--direct) and without --model: its weights are "
            f"random, so its units need a schedule that the server does not have; got {preset!r}"
        )
    place, kind = placed(device, dtype)
    name = "tiny" if model is None else Path(model).name
    name = f"serve-load-{f'{preset}-random' if preset else name}-{place.type}"
    name += f"-{str(kind).removeprefix('torch.')}{'-direct' if direct else ''}"
    how = {"preset": preset, "model": model, "device": device, "dtype": dtype, "threads": threads}
    subject = {**how, "direct": direct and asdict(direct), "question": question and "FILE"}
    rate = audio.SAMPLE_RATE if direct else RATE
    if preset and direct and question is None:
        said, options = made_up(direct.question_s), direct.options
    else:
        said, options = questions(file=question, sample_rate=rate), ReplyOptions()
    if direct:
        bench = DirectBench(factory(**how), said, options, settings, direct)
    else:
        # More sessions than there are clients: the device is to be what is full.
        given = {**how, "max-sessions": max(settings.clients) + SPARE_SESSIONS}
        words = [w for key, v in given.items() if v is not None for w in (f"--{key}", str(v))]
        bench = SocketBench(words, said, settings)

    async def run(folder: Path) -> list[dict[str, Any]]:
        journal = open_journal(folder / f"{name}.partial.jsonl", about(settings, subject))
        async with bench:
            return await sweep(bench, settings, journal)

    with tempfile.TemporaryDirectory() as scratch:
        if output is not None:
            check_folder(output)
        rows = asyncio.run(run(output or Path(scratch)))
    machine = describe(place, kind)
    machine["threads"] = threads or "its own choice"  # the engine's, which is another process
    result = {
        "name": name,
        "command": command,
        "machine": machine,
        "questions": len(said),
        **about(settings, subject),
        "rows": rows,
    }
    write(result, output)
    if output is not None:
        (output / f"{name}.partial.jsonl").unlink()
    return result
