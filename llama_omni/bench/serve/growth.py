"""Chunks that grow with what a listener has buffered, against fixed ones: the engine alone.

One process and one clock: conversations are asked in a row, and each listener plays at once. All
policies make the same replies; only the pieces in which the vocoder speaks them differ.
"""

import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from llama_omni.bench.machine import describe
from llama_omni.bench.report import check_folder
from llama_omni.bench.serve.growth_page import write
from llama_omni.bench.serve.numbers import Row
from llama_omni.bench.serve.playback import PlaybackClock
from llama_omni.bench.serve.sweep import open_journal
from llama_omni.bench.settings import UNITS_PER_TOKEN, Clock, seconds_of
from llama_omni.bench.subject import Subject, random_subject, spoken_question
from llama_omni.engine.batch import BatchEngine
from llama_omni.engine.settings import EngineSettings
from llama_omni.errors import ConfigError, EngineError
from llama_omni.interfaces import AudioDelta, ReplyDone, ReplyFailed, ReplyOptions
from llama_omni.model.vocoder import UnitVocoder

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """How large the chunks of a reply are."""

    name: str
    chunk_size: int  # Omega, units: of the first chunk
    growth: float = 0.0  # `EngineSettings.chunk_growth` of the later ones


POLICIES = (
    Policy(name="growing from 10", chunk_size=10, growth=EngineSettings().chunk_growth),
    *(Policy(name=f"Omega {size}", chunk_size=size) for size in (10, 20, 40)),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class GrowthSettings:
    """How much is measured. Defaults are a published run's."""

    conversations: tuple[int, ...] = (1, 4, 8)  # at once
    rounds: int = 3  # in which all policies take turns
    tokens: int = 51  # of a reply: the paper's mean answer
    question_s: float = 3.0
    stagger_s: float = 0.25  # between one question and the next

    def __post_init__(self) -> None:
        for name in ("rounds", "tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"growth.{name} must be at least 1, got {getattr(self, name)}")
        if not self.conversations or min(self.conversations) < 1:
            raise ConfigError(
                f"growth.conversations must be numbers above 0, got {self.conversations}"
            )
        if self.question_s <= 0 or self.stagger_s < 0:
            raise ConfigError(
                "growth.question_s must be above 0 and stagger_s at least 0, got "
                f"{self.question_s} and {self.stagger_s}"
            )


def measure_growth(
    settings: GrowthSettings,
    *,
    preset: str = "tiny",
    device: str = "auto",
    dtype: str = "auto",
    threads: int | None = None,
    output: Path | None = None,
    command: str = "",
    clock: Clock = time.perf_counter,
) -> dict[str, Any]:
    """Measure all policies, and write JSON, a table and a plot; a stopped run goes on.

    Args:
        settings: how much.
        preset: a size with random weights.
        device: as in `llama_omni.load`.
        dtype: as in `llama_omni.load`.
        threads: as in `llama_omni.load`.
        output: a folder; None keeps nothing.
        command: what the page says it was made by.
        clock: monotonic seconds.

    Returns:
        What the JSON file holds.

    Raises:
        ConfigError: an unknown preset, device or dtype.
        InputError: a run with other settings was stopped here.
        OutputError: the folder cannot be written.
    """
    if output is not None:
        check_folder(output)
    subject = random_subject(preset, device=device, dtype=dtype, clock=clock, threads=threads)
    machine = describe(subject.device, subject.assistant.model.dtype)
    name = f"chunk-growth-{preset}-{machine['device']}-{machine['dtype']}"
    about = {"conversations": list(settings.conversations), **_scalars(settings)}
    with tempfile.TemporaryDirectory() as scratch:
        file = (output or Path(scratch)) / f"{name}.partial.jsonl"
        journal = open_journal(file, {"preset": preset, **about})
        for index in range(settings.rounds):
            for number in settings.conversations:
                for policy in POLICIES:
                    key = f"round {index + 1}, {number} conversations, {policy.name}"
                    if key not in journal:
                        _warm(subject, settings)
                        row = run_policy(subject, policy, number, settings)
                        journal.add(key, {"policy": policy.name, "conversations": number, **row})
                        logger.info("measured %s late=%d", key, row["late"])
        rows = [row for row in journal if "policy" in row]
    result = {
        "name": name,
        "command": command,
        "machine": machine,
        "settings": about,
        "policies": [asdict(policy) for policy in POLICIES],
        "rows": rows,
    }
    write(result, output)
    if output is not None:
        file.unlink()
    return result


def run_policy(subject: Subject, policy: Policy, number: int, settings: GrowthSettings) -> Row:
    """Ask so many conversations once each, in real time, and count what one policy does.

    Returns:
        Of all replies together: seconds to the first sound of each, pieces, late ones, stall, and
        the vocoder's calls, seconds and frames.

    Raises:
        EngineError: a reply failed.
    """
    assistant, clock = subject.assistant, subject.clock
    engine = BatchEngine(
        assistant.stepper,
        assistant.tokenizer,
        assistant.vocoder,
        settings=EngineSettings(chunk_growth=policy.growth),
        system=assistant.system,
        clock=clock,
    )
    options = ReplyOptions(
        max_new_tokens=settings.tokens,
        units_per_token=UNITS_PER_TOKEN,
        chunk_size=policy.chunk_size,
    )
    question = spoken_question(settings.question_s)
    asked: list[float] = []  # when
    heard = [PlaybackClock() for _ in range(number)]
    ended = 0
    begun = clock()
    with _metered(assistant.vocoder, clock) as meter:
        while ended < number:
            due = begun + len(asked) * settings.stagger_s
            if len(asked) < number and clock() >= due:
                place = len(asked)
                asked.append(clock())
                engine.open(place)
                engine.commit(place, engine.prepare(place, question, options))
            elif not engine.has_work:
                time.sleep(max(0.0, due - clock()))
                continue
            for happened in engine.step():
                event = happened.event
                if isinstance(event, AudioDelta):
                    lasts_s = len(event.audio) / event.sample_rate
                    heard[happened.conversation].arrive(clock(), lasts_s)
                elif isinstance(event, ReplyFailed):
                    raise EngineError(f"a reply must be made, got: {event.message}")
                elif isinstance(event, ReplyDone):
                    ended += 1
    wall_s = clock() - begun
    for place in range(number):
        engine.close(place)
    sound_s = sum(one.sound_s for one in heard)
    return {
        "first_audio_s": [
            one.first_s - time
            for one, time in zip(heard, asked, strict=True)
            if one.first_s is not None
        ],
        "pieces": sum(one.pieces for one in heard),
        "late": sum(one.late for one in heard),
        "stall_s": sum(one.stall_s for one in heard),
        "sound_s": sound_s,
        "wall_s": wall_s,
        "vocoder_calls": meter.calls,
        "vocoder_s": meter.seconds,
        "frames": meter.frames,
        "frames_given": round(sound_s * assistant.vocoder.sample_rate / assistant.vocoder.hop),
    }


@dataclass(slots=True)
class Meter:
    """What a vocoder's generator was asked for."""

    calls: int = 0
    frames: int = 0  # of all rows, context and padding too
    seconds: float = 0.0
    rows: list[int] = field(default_factory=list)  # of each call


@contextmanager
def _metered(vocoder: UnitVocoder, clock: Clock) -> Iterator[Meter]:
    """Count the calls of a vocoder's generator."""
    meter, generate = Meter(), vocoder.generate

    def counted(frames: torch.Tensor, *arguments: Any) -> torch.Tensor:
        made: list[torch.Tensor] = []
        device = vocoder.device
        meter.seconds += seconds_of(
            lambda: made.append(generate(frames, *arguments)), device, clock
        )
        meter.calls += 1
        meter.frames += frames.numel()
        meter.rows.append(len(frames))
        return made[0]

    vocoder.generate = counted  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield meter
    finally:
        del vocoder.generate


def _warm(subject: Subject, settings: GrowthSettings) -> None:
    """Pay for what is slow only once; a second call costs a short reply."""
    run_policy(subject, POLICIES[0], 1, replace(settings, tokens=2))


def _scalars(settings: GrowthSettings) -> dict[str, Any]:
    return {name: value for name, value in asdict(settings).items() if name != "conversations"}
