"""A soak: a real server with many visitors who come and go by chance, watched for what it keeps.

The server is a process of its own, as users start it. What counts is that nothing grows and that
every rule of the protocol holds; times are another benchmark's.
"""

import asyncio
import json
import logging
import time
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import torch

from llama_omni import audio
from llama_omni.backends.tts import open_synthesizer
from llama_omni.bench.machine import describe
from llama_omni.bench.report import check_folder
from llama_omni.bench.soak.ledger import Ledger
from llama_omni.bench.soak.page import markdown, plot
from llama_omni.bench.soak.server import ServerProcess, held_by
from llama_omni.bench.soak.settings import SoakSettings
from llama_omni.bench.soak.verdict import EMPTY, judge
from llama_omni.bench.soak.visitor import RATE, Visitor
from llama_omni.data import domain
from llama_omni.errors import MissingExtraError, ToolError
from llama_omni.interfaces import Audio

__all__ = ["SoakSettings", "run_soak"]

logger = logging.getLogger(__name__)

_PREFIX = "llama_omni_"
_GAUGES = (*EMPTY, "tasks", "engine_speaking", "engine_reading")
_WRITTEN, _SPOKEN = 40, 12  # different questions
_VOICE = "flite:slt"


def run_soak(settings: SoakSettings, *, question: Path, command: str = "") -> dict[str, Any]:
    """Soak a server, judge what was seen, and write it down.

    Args:
        settings: how long, by how many, and where the files go.
        question: what is said where the voices (flite) are not installed.
        command: what the page says it was made by.

    Returns:
        What the JSON file holds; `verdict` says which rules held.

    Raises:
        EngineError: the server does not come up.
        OutputError: something cannot be written.
    """
    check_folder(settings.output.parent)
    result = asyncio.run(_soak(settings, question))
    result["command"] = command
    result["machine"] = describe(torch.device("cpu"), torch.float32)
    try:
        plot(result, settings.output.with_name(f"{settings.output.name}.png"))
    except MissingExtraError as error:
        logger.warning("plot skipped reason=%s", error)
    for suffix, text in (("json", json.dumps(result, indent=1)), ("md", markdown(result))):
        file = settings.output.with_name(f"{settings.output.name}.{suffix}")
        file.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
    return result


async def _soak(settings: SoakSettings, question: Path) -> dict[str, Any]:
    written, spoken = _questions(settings.seed, question)
    server = ServerProcess(settings.serve, settings.patience_s)
    ledger, samples = Ledger(), []
    await server.start()
    try:

        async def visit(random: Random) -> None:
            visitor = Visitor(
                f"{server.url.replace('http', 'ws', 1)}/v1/realtime",
                ledger,
                random,
                written=written,
                spoken=spoken,
                patience_s=settings.patience_s,
            )
            await visitor.run()

        # What the first visit loads (the detector, pools of threads) stays for all the others.
        await visit(Random(f"{settings.seed}/first"))
        empty_before = await _empty(server, time.monotonic(), settings.patience_s)
        began = time.monotonic()

        async def seat(number: int) -> None:
            """Let one visitor after the other come."""
            random = Random(f"{settings.seed}/{number}")
            while time.monotonic() - began < settings.seconds:
                await visit(random)
                await asyncio.sleep(random.uniform(0.0, 2.0))

        async def watch() -> None:
            while True:
                samples.append(await _sample(server, began))
                await asyncio.sleep(settings.every_s)

        watching = asyncio.create_task(watch())
        seats = [asyncio.create_task(seat(number)) for number in range(settings.visitors)]
        visits = asyncio.gather(*seats)
        await asyncio.wait([watching, visits], return_when=asyncio.FIRST_COMPLETED)
        if not watching.cancel():
            await watching  # it has failed, and says how
        await visits
        empty_after = await _empty(server, began, settings.patience_s)
    finally:
        code = await server.stop()
    seen = {
        "sessions": dict(ledger.sessions),
        "done": dict(ledger.done),
        "responses": dict(ledger.statuses),
        "errors": dict(ledger.errors),
        "frames": ledger.frames,
        "num_broken": ledger.num_broken,
        "broken": ledger.broken,
        "log_errors": server.trouble,
        "exit_code": code,
    }
    result = {
        "settings": {**asdict(settings), "output": settings.output.name},
        "seen": seen,
        "empty_before": empty_before,
        "empty_after": empty_after,
        "samples": samples,
    }
    return {**result, "verdict": judge(settings, result)}


async def _sample(server: ServerProcess, began: float) -> dict[str, Any]:
    """Read what the two processes hold, and what they say of themselves."""
    numbers = await server.metrics()
    return {
        "at_s": round(time.monotonic() - began, 2),
        "server": asdict(held_by(server.pid)),
        "engine": asdict(held_by(server.engine_pid)),
        **{name: int(numbers[_PREFIX + name]) for name in _GAUGES},
    }


async def _empty(server: ServerProcess, began: float, patience_s: float) -> dict[str, Any]:
    """Wait until everybody's traces are gone; return what is there then, or at the last."""
    deadline = time.monotonic() + patience_s
    while True:
        sample = await _sample(server, began)
        done = not any(sample[name] for name in EMPTY) or time.monotonic() > deadline
        await asyncio.sleep(0.5)  # in which the question for the metrics hangs up too
        if done:
            held = {"server": held_by(server.pid), "engine": held_by(server.engine_pid)}
            return sample | {name: asdict(value) for name, value in held.items()}


def _questions(seed: int, question: Path) -> tuple[list[str], list[Audio]]:
    records = domain.tiny_records(seed, 4 * _WRITTEN)
    written = [record.question for record in records if not record.history][:_WRITTEN]
    try:
        voice = open_synthesizer(_VOICE)
    except ToolError as error:
        logger.warning("one recording stands for all voices reason=%s", error)
        sounds = [audio.load(question)]
    else:
        sounds = [voice.say(text, voice=_VOICE) for text in written[:_SPOKEN]]
        voice.close()
    return written, [audio.resample(sound, audio.SAMPLE_RATE, RATE) for sound in sounds]
