"""A client without a network: it drives the engine as a server with a turn detector would.

Its turns' ends are known and not detected: a pause is noticed, and a turn ends, as long after the
voice as in the server. It needs neither a web framework nor onnxruntime.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from time import monotonic

import numpy as np

from llama_omni import audio
from llama_omni.bench.serve.settings import DirectSettings, LoadSettings
from llama_omni.bench.serve.speech import Utterance, paused, room
from llama_omni.bench.serve.turns import Turn, TurnWatch
from llama_omni.bench.subject import spoken_question
from llama_omni.errors import CapacityError, LlamaOmniError
from llama_omni.interfaces import (
    AsyncAssistant,
    AsyncConversation,
    Audio,
    AudioDelta,
    ReplyEvent,
    ReplyOptions,
)
from llama_omni.interfaces import Turn as Question
from llama_omni.remote.messages import EngineNumbers

_FULL = 0.9  # share of the caches from which no reply is made that may be dropped, as in the server


@dataclass(kw_only=True, slots=True)
class DirectTalker:
    """One conversation that asks one question after another.

    Args:
        number: of the conversation.
        engine: is ready.
        numbers: tells what the engine holds.
        questions: at 16 kHz.
        options: of each reply.
        settings: pauses and patience.
        direct: the turn detector's waits, and how long the listener listens.
        speculate: prepare replies at pauses.
        counted: what speculation did, of all conversations.
    """

    number: int
    engine: AsyncAssistant
    numbers: Callable[[], EngineNumbers]
    questions: Sequence[Utterance]
    options: ReplyOptions
    settings: LoadSettings
    direct: DirectSettings
    speculate: bool
    counted: Counter[str]
    turns: list[Turn] = field(default_factory=list)
    lags_s: list[float] = field(default_factory=list)
    _random: Random = field(default_factory=Random)
    _timer: asyncio.TimerHandle | None = None  # of a listener who interrupts

    async def talk(self, *, starts: float, ends: float) -> None:
        """Begin turns until a time has come, or the settings' turns are done.

        Args:
            starts: the clock's reading when the conversation begins.
            ends: the clock's reading from which no turn begins.
        """
        self._random, settings = Random(f"{self.settings.seed}/{self.number}"), self.settings
        conversation = self.engine.conversation()
        try:
            await self._until(starts)
            while len(self.turns) < settings.turns if settings.turns else monotonic() < ends:
                await asyncio.sleep(self._random.uniform(*settings.gap_s))
                await self._turn(conversation)
        finally:
            conversation.close()

    async def _turn(self, conversation: AsyncConversation) -> None:
        said = paused(
            self._random.choice(self.questions),
            self._random,
            share=self.settings.inner_pauses,
            lasts=self.settings.inner_pause_s,
        )
        watch = TurnWatch(client=self.number, speech_end_s=monotonic() + said.lasts_s)
        generation = None
        try:
            generation = await self._asked(conversation, said, watch)
            await self._heard(conversation, generation, watch)
        except CapacityError:
            watch.end("refused", "no room")
        except LlamaOmniError as error:
            watch.end("failed", type(error).__name__)
        self.turns.append(watch.turn())
        if len(self.turns) == self.settings.turns:
            return  # nobody waits for the last answer to be played
        played, listen_s = watch.playback, self.direct.listen_s
        if listen_s is None or played.first_s is None:
            await self._until(played.ends_s)
            return
        await self._until(min(played.ends_s, played.first_s + listen_s))
        if (now := monotonic()) < played.ends_s:
            conversation.truncate(round(played.heard_s(now) * self.engine.sample_rate), generation)

    async def _asked(
        self, conversation: AsyncConversation, said: Utterance, watch: TurnWatch
    ) -> int:
        """Speak a question in real time, prepare at its pauses, and return the reply asked for."""
        began, roll = watch.speech_end_s - said.lasts_s, self.direct.post_roll_s
        rate, quiet = said.sample_rate, room(self._random, round(roll * said.sample_rate))
        for begin, end in said.pauses:
            if end - begin > self.direct.short_pause_s:
                await self._until(began + begin + self.direct.short_pause_s)
                segment = said.sound[: round((begin + roll) * rate)]
                prepared = self._prepare(conversation, segment)
                await self._until(began + end + self.direct.resume_s)
                if prepared is not None:
                    conversation.abandon(prepared)
                    self.counted["dropped"] += 1
        segment = np.concatenate([said.sound, quiet])
        await self._until(watch.speech_end_s + self.direct.short_pause_s)
        prepared = self._prepare(conversation, segment)
        await self._until(watch.speech_end_s + self.direct.silence_s)
        watch.stopped(monotonic())
        if prepared is None:
            return conversation.prepare(Question(role="user", audio=segment), self.options)
        self.counted["used"] += 1
        return prepared

    def _prepare(self, conversation: AsyncConversation, segment: Audio) -> int | None:
        if not self.speculate:
            return None
        numbers = self.numbers()
        full = numbers.cache_limit and numbers.cache_bytes > _FULL * numbers.cache_limit
        if numbers.waiting or full:
            self.counted["left_out"] += 1
            return None
        self.counted["begun"] += 1
        return conversation.prepare(Question(role="user", audio=segment), self.options)

    async def _heard(
        self, conversation: AsyncConversation, generation: int, watch: TurnWatch
    ) -> None:
        """Listen to a reply until its end, or until nothing has come for too long."""
        events = conversation.commit(generation)
        task = asyncio.create_task(self._listen(conversation, generation, events, watch))
        try:
            while not task.done():
                left = watch.last_s + self.settings.answer_s - monotonic()
                if left <= 0:
                    conversation.cancel(generation)
                    watch.end("unanswered", "no answer in time")
                    return
                await asyncio.wait([task], timeout=left)
            task.result()
            watch.end()
        finally:
            task.cancel()
            if self._timer is not None:
                self._timer.cancel()
            with suppress(asyncio.CancelledError, LlamaOmniError):
                await task

    async def _listen(
        self,
        conversation: AsyncConversation,
        generation: int,
        events: AsyncIterator[ReplyEvent],
        watch: TurnWatch,
    ) -> None:
        async for event in events:
            if isinstance(event, AudioDelta) and len(event.audio):
                now = monotonic()
                if watch.playback.first_s is None and self.direct.listen_s is not None:
                    self._timer = asyncio.get_running_loop().call_later(
                        self.direct.listen_s, conversation.cancel, generation
                    )
                watch.sound(now, len(event.audio) / event.sample_rate)

    async def _until(self, time: float) -> None:
        if (left := time - monotonic()) > 0:
            await asyncio.sleep(left)
            self.lags_s.append(monotonic() - time)


def made_up(seconds: float) -> list[Utterance]:
    """Return a made-up question: where no words are understood, its cost hangs on its length."""
    return [Utterance(sound=spoken_question(seconds), sample_rate=audio.SAMPLE_RATE)]
