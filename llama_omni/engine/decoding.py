"""Tokens and sound of many replies at once; what fails for all is tried again one by one."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from llama_omni.engine.schedule import chunk_units
from llama_omni.engine.settings import EngineSettings
from llama_omni.engine.step import Stepper, StepResult
from llama_omni.engine.talk import Job, Stage
from llama_omni.engine.vocoding import Push, Spoken, StreamingVocoder, VocoderState
from llama_omni.model.vocoder import UnitVocoder

logger = logging.getLogger(__name__)

T = TypeVar("T")
Fail = Callable[[Job, Exception], None]


def isolated(
    jobs: Sequence[Job], call: Callable[[Sequence[Job]], Sequence[T]], fail: Fail
) -> list[tuple[Job, T]]:
    """Do one call for several replies; where it raises, one call each, and only the guilty fail.

    A call that raised has left nothing behind: caches count what was written only afterwards.
    """
    if not jobs:
        return []
    try:
        return list(zip(jobs, call(jobs), strict=True))
    except torch.AcceleratorError:
        raise  # the device is lost for every reply
    except Exception as error:
        if len(jobs) == 1:
            fail(jobs[0], error)
            return []
        logger.warning("a batch of %d replies raised; trying each alone", len(jobs))
    return [pair for job in jobs for pair in isolated([job], call, fail)]


def decode(stepper: Stepper, jobs: Sequence[Job], fail: Fail) -> list[tuple[Job, int, list[int]]]:
    """Give each reply its next token and that token's frame labels."""
    found: list[tuple[Job, int, list[int]]] = []
    groups: dict[tuple[bool, bool], list[Job]] = {}
    for job in jobs:
        groups.setdefault((job.hidden is not None, job.options.speech), []).append(job)
    for (is_first, _), members in groups.items():

        def call(members: Sequence[Job], is_first: bool = is_first) -> list[tuple[int, list[int]]]:
            rows = [job.row for job in members]
            if is_first:
                states = [job.hidden for job in members if job.hidden is not None]
                result = stepper.first(rows, torch.cat(states))
            else:
                result = stepper.step(rows, [job.builder.tokens[-1] for job in members])
            return _rows(result)

        for job, (token, labels) in isolated(members, call, fail):
            if is_first:
                job.hidden = None
            else:
                assert job.talk.context is not None
                job.talk.context.note(job.builder.tokens[-1])
            found.append((job, token, labels))
    return found


def _rows(result: StepResult) -> list[tuple[int, list[int]]]:
    return list(zip(result.tokens, result.labels, strict=True))


@dataclass(frozen=True, slots=True)
class Chunk:
    """What the vocoder made of a reply's next units."""

    job: Job
    units: int
    final: bool
    spoken: Spoken
    state: VocoderState
    took_s: float  # of the call, which it shared


class Vocoding:
    """Gives the vocoder the chunks that are due, those of several replies in one call."""

    def __init__(
        self, vocoder: UnitVocoder, settings: EngineSettings, *, clock: Callable[[], float]
    ) -> None:
        self._vocoder, self._settings, self._clock = vocoder, settings, clock
        self._streaming: dict[int, StreamingVocoder] = {}  # by look-ahead

    def due(self, job: Job, now: float) -> tuple[int, bool] | None:
        """Return the units of a reply's next chunk, and whether it is the last; None: wait."""
        builder = job.builder
        if not job.options.speech:
            return None
        size = chunk_units(
            job.options.chunk_size,
            ahead_s=job.playback.ahead_s(now),
            units_per_s=builder.units_per_s,
            settings=self._settings,
        )
        pending = builder.pending_units
        growing = self._settings.chunk_growth > 0 and builder.units_per_s is not None
        ending = job.stage is Stage.ENDING
        if size is not None and pending >= size:
            return (pending, ending) if growing else (size, False)
        return (pending, True) if ending else None

    def chunks(self, jobs: Sequence[Job], now: float, spent: int, fail: Fail) -> list["Chunk"]:
        """Speak the chunks that are due, one a reply, the most urgent replies' first.

        Args:
            jobs: replies that could have one due.
            now: the clock's reading.
            spent: units of this step's bound that are used up.
            fail: told of a reply whose chunk cannot be spoken.
        """
        taken: dict[int, list[tuple[Job, Push]]] = {}
        for job in sorted(jobs, key=lambda job: job.playback.ahead_s(now)):
            due = self.due(job, now)
            if due is None or (spent and spent + due[0] > self._settings.vocode_units):
                continue
            spent += due[0]
            push = job.builder.chunk(due[0], final=due[1])
            taken.setdefault(job.builder.lookahead, []).append((job, push))
        found: list[Chunk] = []
        for lookahead, members in taken.items():
            pushes = {job.key: push for job, push in members}

            def call(
                members: Sequence[Job], pushes: dict[int, Push] = pushes, held: int = lookahead
            ) -> list[tuple[Spoken, VocoderState]]:
                made = self._at(held).push_many([pushes[job.key] for job in members])
                return [(replace(s, audio=s.audio.float().cpu()), state) for s, state in made]

            begun = self._clock()
            spoken = isolated([job for job, _ in members], call, fail)
            took_s = self._clock() - begun
            for job, (sound, state) in spoken:
                push = pushes[job.key]
                found.append(Chunk(job, len(push.units), push.final, sound, state, took_s))
        return found

    def _at(self, lookahead: int) -> StreamingVocoder:
        if lookahead not in self._streaming:
            self._streaming[lookahead] = StreamingVocoder(self._vocoder, lookahead=lookahead)
        return self._streaming[lookahead]
