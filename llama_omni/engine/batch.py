"""Many conversations at once on one device: they join and leave the running batch at any token.

`step` does a bounded piece of work for everyone and returns what happened. Between two steps any
conversation may be opened, asked, cancelled, cut or closed. Single-threaded, and no clock but the
one given; the process around it is `engine.worker`.

Events of a reply that is only prepared are returned too: whoever shows them waits for its commit.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from llama_omni.engine.admission import Admission
from llama_omni.engine.asking import Asking
from llama_omni.engine.context import Context
from llama_omni.engine.decoding import Vocoding, decode
from llama_omni.engine.intake import Intake
from llama_omni.engine.reply import FinishReason
from llama_omni.engine.schedule import Standing, choose_rows
from llama_omni.engine.settings import EngineSettings
from llama_omni.engine.step import Stepper
from llama_omni.engine.talk import Job, Stage, Talk
from llama_omni.errors import CapacityError, InputError, LlamaOmniError
from llama_omni.history import History
from llama_omni.interfaces import (
    Audio,
    AudioDelta,
    ReplyDone,
    ReplyEvent,
    ReplyOptions,
    Turn,
)
from llama_omni.model.tokenizer import TextTokenizer
from llama_omni.model.vocoder import UnitVocoder
from llama_omni.remote.messages import EngineNumbers, Happened, failure_of

logger = logging.getLogger(__name__)


class BatchEngine:
    """Serves many conversations with one model, one step at a time.

    Args:
        stepper: the device side.
        tokenizer: the LLM's.
        vocoder: speaks the model's units; on the model's device.
        settings: bounds and priorities.
        system: system prompt of every conversation; None is the prompt template's own.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        stepper: Stepper,
        tokenizer: TextTokenizer,
        vocoder: UnitVocoder,
        *,
        settings: EngineSettings | None = None,
        system: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings or EngineSettings()
        self.sample_rate = vocoder.sample_rate
        self._stepper, self._system, self._clock = stepper, system, clock
        self._talks: dict[int, Talk] = {}
        self._jobs: list[Job] = []  # not done, by arrival
        self._out: list[Happened] = []
        self._asking = Asking(stepper, tokenizer, vocoder, clock)
        self._admission = Admission(stepper, self.settings.cache_bytes)
        self._intake = Intake(stepper.model, self.settings, self._guard)
        self._vocoding = Vocoding(vocoder, self.settings, clock=clock)
        self._count = EngineNumbers(cache_limit=self._admission.limit)
        self._held_back = 0  # steps that newcomers have waited
        self._full = False  # the first that waits did not fit, and nothing has changed since
        self._uses = 0

    # What conversations ask for, between two steps

    def open(self, conversation: int, system: str | None = None) -> None:
        """Begin a conversation under a number that is not in use."""
        if conversation in self._talks:
            raise InputError(f"conversation {conversation} must be new, got one that is open")
        system = self._system if system is None else system
        turns = [] if system is None else [Turn(role="system", text=system)]
        self._talks[conversation] = Talk(key=conversation, history=History(turns))

    def turns(self, conversation: int) -> tuple[Turn, ...]:
        """Return the history of a conversation."""
        return self._talk(conversation).history.turns

    def prepare(
        self,
        conversation: int,
        question: Audio | Turn | None,
        options: ReplyOptions | None = None,
        *,
        generation: int | None = None,
        history: Sequence[Turn] | None = None,
    ) -> int:
        """Begin a reply that is not committed; see `AsyncConversation.prepare`.

        Raises:
            InputError: the question cannot be used, or a committed reply is running.
            CapacityError: it can never fit, or too many replies wait.
        """
        talk = self._talk(conversation)
        asked = None if question is None else self._asking.checked(question)
        before = talk.history.turns if history is None else tuple(history)
        turns = [*before, *([] if asked is None else [asked])]
        if self.settings.forget and history is None:
            turns = self._asking.fitting(talk, turns, options or ReplyOptions())
        prompt = self._asking.prompt(turns)
        generation = talk.history.prepare(asked, generation=generation, in_history=history is None)
        self._drop_prepared(talk)
        job = self._asking.job(talk, generation, options or ReplyOptions(), turns, prompt)
        try:
            self._admission.refuse_impossible(self._asking.need(job))
            waiting = sum(other.stage is Stage.WAITING for other in self._jobs)
            if waiting >= self.settings.max_waiting:
                raise CapacityError(
                    f"at most {self.settings.max_waiting} replies wait for room, and as many do; "
                    "ask again later"
                )
        except CapacityError:
            self._counted(refused=1)
            talk.history.fail(generation)
            raise
        talk.job = job
        self._jobs.append(job)
        self._full = False
        return generation

    def commit(self, conversation: int, generation: int) -> None:
        """Show a prepared reply: it joins the history, and its listener begins to play."""
        talk = self._talk(conversation)
        job = talk.job
        if talk.history.commit(generation) and job is not None and job.generation == generation:
            job.committed = True
            job.playback.start(self._clock())
            if job.stage is Stage.DONE:
                talk.job = None

    def abandon(self, conversation: int, generation: int) -> None:
        """Drop a reply that is not committed."""
        talk = self._talk(conversation)
        talk.history.abandon(generation)
        if talk.job is not None and talk.job.generation == generation:
            self._drop_prepared(talk)

    def cancel(self, conversation: int, generation: int | None = None) -> None:
        """Stop a reply now; its `ReplyDone` is among the next step's events."""
        job = self._talk(conversation).job
        if job is None or generation not in (None, job.generation):
            return
        if not job.committed:
            self.abandon(conversation, job.generation)
            return
        self._counted(cancelled=1)
        self._guard(job, lambda: self._end(job, "cancelled"))

    def truncate(
        self, conversation: int, samples: int, generation: int | None = None
    ) -> Turn | None:
        """Keep of an answer only what its first samples speak, in the history and the cache."""
        talk = self._talk(conversation)
        chosen = talk.history.last_answer if generation is None else generation
        if talk.job is not None and talk.job.committed and talk.job.generation == chosen:
            self.cancel(conversation, chosen)
        whole = talk.history.answer(chosen)
        rest = talk.history.truncate(samples, chosen)
        if whole is not None and talk.context is not None and not _reads(talk.job):
            tokens = whole.token_ids or ()
            kept = (rest.token_ids or ()) if rest is not None else ()
            start = talk.starts.get(chosen, talk.context.length)
            # The last token of a reply is never fed.
            if len(kept) < len(tokens) and talk.context.holds(tokens[:-1], start):
                talk.context.cut(start + len(kept))
        return rest

    def add(self, conversation: int, turn: Turn) -> None:
        """Put a turn at the end of a conversation's history."""
        self._talk(conversation).history.add(self._asking.checked(turn))

    def replace(self, conversation: int, turns: Sequence[Turn]) -> None:
        """Take these turns for a conversation's history."""
        checked = [self._asking.checked(turn) for turn in turns]
        self._talk(conversation).history.replace(checked)

    def close(self, conversation: int) -> None:
        """Forget a conversation and give back all it holds."""
        talk = self._talks.pop(conversation, None)
        if talk is not None:
            if talk.job is not None:
                self._leave(talk.job)
            talk.evict()
            self._out = [event for event in self._out if event.conversation != conversation]
            self._full = False

    # The work

    @property
    def has_work(self) -> bool:
        """Whether the next step would do anything; if not, only a call can change that."""
        return bool(self._out) or any(self._is_ready(job) for job in self._jobs)

    def step(self) -> list[Happened]:
        """Do a bounded piece of work for every conversation; return what happened."""
        self._admit()
        reading = [job for job in self._jobs if job.stage is Stage.READING]
        if reading and (self._held_back >= self.settings.patience or not self._runs_dry()):
            self._held_back = 0
            self._intake.work(reading)
        else:
            self._held_back += bool(reading)
        self._speak(newcomers=any(job.committed for job in reading))
        self._vocode()
        self._counted(steps=1)
        happened, self._out = self._out, []
        return happened

    def numbers(self) -> EngineNumbers:
        """Return what the engine holds and has counted."""
        stages = [job.stage for job in self._jobs]
        return replace(
            self._count,
            conversations=len(self._talks),
            batch=self._count.batch if self.has_work else 0,
            waiting=stages.count(Stage.WAITING),
            reading=stages.count(Stage.READING),
            speaking=stages.count(Stage.SPEAKING) + stages.count(Stage.ENDING),
            cache_bytes=self._admission.used,
            reused_positions=self._intake.reused_positions,
            read_positions=self._intake.read_positions,
        )

    def _admit(self) -> None:
        """Give room to those that wait, committed ones first; evict idle ones if that helps."""
        waiting = [job for job in self._jobs if job.stage is Stage.WAITING]
        for job in sorted(waiting, key=lambda job: (not job.committed, job.key)):
            idle = [
                talk
                for talk in self._talks.values()
                if talk.context is not None and not _reads(talk.job) and talk is not job.talk
            ]
            evicted = self._admission.admit_evicting(job, self._asking.need(job), idle)
            if evicted is None:
                self._full = True
                return  # first come, first served
            self._counted(evicted=evicted)
            self._guard(job, lambda j=job: self._take_slots(j))

    def _take_slots(self, job: Job) -> None:
        job.talk.context = job.talk.context or Context(self._stepper)
        if job.options.speech:
            job.speech_slot = self._stepper.speech_cache.allocate()
        job.stage = Stage.READING

    def _runs_dry(self) -> bool:
        now = self._clock()
        return any(job.stage is Stage.SPEAKING and job.playback.is_dry(now) for job in self._jobs)

    def _speak(self, *, newcomers: bool) -> None:
        """Make the next token of those whose turn it is."""
        for job in [job for job in self._jobs if job.stage is Stage.SPEAKING]:
            if job.builder.tokens and job.talk.context and job.talk.context.room < 1:
                self._guard(job, lambda j=job: self._end(j, "length"))
        now = self._clock()
        rows = [job for job in self._jobs if job.stage is Stage.SPEAKING]
        standings = [
            Standing(ahead_s=job.playback.ahead_s(now), committed=job.committed, served=job.served)
            for job in rows
        ]
        chosen = [rows[i] for i in choose_rows(standings, self.settings, newcomers=newcomers)]
        found = decode(self._stepper, chosen, self._fail)
        took_s = self._clock() - now
        self._count = replace(self._count, batch=len(chosen))
        for job, token, labels in found:
            job.served = self._count.steps
            job.builder.count_decoding(took_s)
            self._guard(job, lambda j=job, t=token, ls=labels: self._take(j, t, ls))
        self._counted(tokens=len(found))

    def _take(self, job: Job, token: int, labels: list[int]) -> None:
        self._emit(job, *job.builder.take(token, labels))
        if not job.options.speech:
            job.playback.give(1 / self.settings.written_hz, self._clock())
        if job.builder.finished is not None:
            self._end(job, job.builder.finished)

    def _vocode(self) -> None:
        """Speak the chunks that are due."""
        spent = 0
        while True:
            jobs = [job for job in self._jobs if job.stage in (Stage.SPEAKING, Stage.ENDING)]
            chunks = self._vocoding.chunks(jobs, self._clock(), spent, self._fail)
            if not chunks:
                return
            for chunk in chunks:
                spent += chunk.units
                events = chunk.job.builder.speak(chunk.spoken, chunk.state, chunk.took_s)
                self._guard(chunk.job, lambda j=chunk.job, es=events: self._emit(j, *es))
                if chunk.final and chunk.job.stage is Stage.ENDING:
                    self._guard(chunk.job, lambda j=chunk.job: self._done(j))

    # Ends of replies

    def _end(self, job: Job, reason: FinishReason) -> None:
        """No token follows: give the text that is held back, and the speech slot back."""
        self._emit(job, *job.builder.end_text(reason))
        self._release(job)
        job.stage = Stage.ENDING
        if reason == "cancelled" or not job.options.speech:
            self._done(job)

    def _done(self, job: Job) -> None:
        reply = job.builder.reply()
        self._leave(job)
        if not job.committed:
            job.talk.job = job  # it may still be
        self._counted(replies=int(reply.finish_reason != "cancelled"))
        self._emit(job, ReplyDone(reply=reply))

    def _fail(self, job: Job, error: Exception) -> None:
        """End one reply with an error; nobody else notices."""
        if not isinstance(error, LlamaOmniError):
            logger.error("reply failed conversation=%d", job.talk.key, exc_info=error)
        self._leave(job)
        job.talk.evict()  # who knows what its slot holds
        job.talk.history.fail(job.generation)
        self._counted(failed=1)
        self._out.append(Happened(job.talk.key, job.generation, failure_of(error)))

    def _drop_prepared(self, talk: Talk) -> None:
        job = talk.job
        if job is not None and not job.committed:
            self._counted(abandoned=1, unheard_tokens=len(job.builder.tokens))
            self._leave(job)
            gone = (talk.key, job.generation)
            self._out = [e for e in self._out if (e.conversation, e.generation) != gone]

    def _leave(self, job: Job) -> None:
        """Take a reply out of the work."""
        self._release(job)
        job.stage, job.talk.job = Stage.DONE, None
        job.talk.used = self._uses = self._uses + 1
        if job in self._jobs:
            self._jobs.remove(job)

    def _release(self, job: Job) -> None:
        self._full = False
        self._admission.release(job.key)
        if job.speech_slot is not None:
            self._stepper.speech_cache.free(job.speech_slot)
            job.speech_slot = None

    # Small things

    def _emit(self, job: Job, *events: ReplyEvent) -> None:
        for event in events:
            if isinstance(event, AudioDelta):
                job.playback.give(len(event.audio) / event.sample_rate, self._clock())
            job.talk.history.note(job.generation, event)
            self._out.append(Happened(job.talk.key, job.generation, event))

    def _guard(self, job: Job, work: Callable[[], None]) -> bool:
        """Do a piece of one reply's work; an exception ends that reply only."""
        try:
            work()
        except torch.AcceleratorError:
            raise  # the device is lost for every reply
        except Exception as error:
            self._fail(job, error)
            return False
        return True

    def _is_ready(self, job: Job) -> bool:
        if job.stage is Stage.WAITING:
            return not self._full
        if job.stage is not Stage.SPEAKING or job.committed:
            return True
        return job.playback.ahead_s(self._clock()) < self.settings.prepare_s

    def _counted(self, **more: int) -> None:
        now = {name: getattr(self._count, name) + count for name, count in more.items()}
        self._count = replace(self._count, **now)

    def _talk(self, conversation: int) -> Talk:
        if conversation not in self._talks:
            raise InputError(f"conversation {conversation} must be open, got none such")
        return self._talks[conversation]


def _reads(job: Job | None) -> bool:
    """Tell whether a reply uses its conversation's LLM slot."""
    return job is not None and job.stage in (Stage.READING, Stage.SPEAKING)
