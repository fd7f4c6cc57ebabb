"""Algorithm 1 for one reply, as explicit state: token -> text, frames -> units -> chunk -> sound.

`ReplyBuilder` is the host side of a reply: it is told each token with its frame labels, and gives
the events that follow at once. It runs no model but the vocoder, so one loop can serve one reply
(`generate`, below) or many.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor

from llama_omni.engine.context import Context
from llama_omni.engine.phases import Phases
from llama_omni.engine.step import Row, Stepper
from llama_omni.engine.vocoding import (
    DEFAULT_LOOKAHEAD,
    Push,
    Spoken,
    StreamingVocoder,
    VocoderState,
)
from llama_omni.interfaces import (
    Audio,
    AudioDelta,
    Reply,
    ReplyDone,
    ReplyEvent,
    ReplyOptions,
    TextDelta,
    Timings,
)
from llama_omni.metrics import count_words
from llama_omni.model.ctc import CollapseStream
from llama_omni.model.vocoder import UnitVocoder
from llama_omni.prompt import TextStream

FinishReason = Literal["stop", "length", "cancelled"]


class ReplyBuilder:
    """A reply in the making.

    Args:
        options: chunk size, look-ahead, and where a reply ends.
        vocoder: turns units into sound.
        decode: token ids to text.
        stop_ids: tokens that end a reply; they are spoken (their frames count) but not written.
        clock: monotonic seconds.
        started: the clock's reading when the question was complete.
        phases: timed what came before the first token.
    """

    def __init__(
        self,
        options: ReplyOptions,
        *,
        vocoder: UnitVocoder,
        decode: Callable[[list[int]], str],
        stop_ids: Sequence[int],
        clock: Callable[[], float],
        started: float,
        phases: Phases,
    ) -> None:
        self.options = options
        self.tokens: list[int] = []
        self.units: list[int] = []
        self.finished: FinishReason | None = None
        self._unit_tokens: list[int] = []
        self.text = ""
        self._text_stream = TextStream(decode)
        self._text_sent = 0  # tokens whose text was given
        self._stop_ids = frozenset(stop_ids)
        self._collapse = CollapseStream(vocoder.num_units)
        self._sample_rate = vocoder.sample_rate
        self._vocoder = StreamingVocoder(vocoder, lookahead=self.lookahead)
        self._sound = self._vocoder.start()
        self._pushed = 0  # units that the vocoder has
        self._audio: list[Audio] = []
        self._sample_tokens: list[tuple[int, int]] = []
        self._lagging_words: int | None = None
        self._clock, self._started, self._phases = clock, started, phases
        self._timings = Timings()

    @property
    def lookahead(self) -> int:
        """Units held back for the vocoder."""
        return DEFAULT_LOOKAHEAD if self.options.lookahead is None else self.options.lookahead

    @property
    def pending_units(self) -> int:
        """Units known that the vocoder does not have."""
        return len(self.units) - self._pushed

    @property
    def units_per_s(self) -> float | None:
        """Units spoken for each second of sound; None before the first sound."""
        samples = self._sound.num_samples
        return self._sound.num_units * self._sample_rate / samples if samples else None

    def push(self, token: int, labels: Sequence[int]) -> Iterator[ReplyEvent]:
        """Take the next token and its frames' labels; give what they complete, text first."""
        yield from self.take(token, labels)
        size = self.options.chunk_size
        while size is not None and self.pending_units >= size:
            yield from self._spoken(self._pushed + size, final=False)

    def take(self, token: int, labels: Sequence[int]) -> Iterator[ReplyEvent]:
        """Take the next token and its frames' labels; give its text, and leave the sound."""
        if not self.tokens:
            self._timings = replace(self._timings, first_token_s=self._elapsed())
        index = len(self.tokens)
        self.tokens.append(token)
        if token in self._stop_ids:
            self.finished = "stop"
        else:
            text = self._text_stream.push(token)
            if len(self.tokens) >= self.options.max_new_tokens:
                self.finished = "length"
            yield from self._written(text)
        new = self._collapse.push(labels)
        if self.options.units_per_token is not None:
            new = self._scheduled(index, labels)
        self.units += new
        self._unit_tokens += [index] * len(new)

    def finish(self, reason: FinishReason) -> Iterator[ReplyEvent]:
        """Give what is held back, then `ReplyDone`. A cancelled reply gives no more sound."""
        yield from self.end_text(reason)
        if reason != "cancelled" and self.options.speech:
            yield from self._spoken(len(self.units), final=True)
        yield ReplyDone(reply=self.reply())

    def end_text(self, reason: FinishReason) -> Iterator[ReplyEvent]:
        """Give the text that is held back; no token follows."""
        self.finished = reason
        yield from self._written(self._text_stream.flush())

    def chunk(self, size: int, *, final: bool) -> Push:
        """Take the next units for the vocoder, whose answer `speak` is to be told."""
        if self._timings.first_chunk_units_s is None and size:
            self._timings = replace(self._timings, first_chunk_units_s=self._elapsed())
        units = self.units[self._pushed : self._pushed + size]
        self._pushed += len(units)
        return Push(units=units, state=self._sound, final=final)

    def speak(self, spoken: Spoken, state: VocoderState, took_s: float) -> Iterator[ReplyEvent]:
        """Take what the vocoder made of a chunk within `took_s` seconds; give its sound."""
        self._sound = state
        yield from self._sounded(spoken, self._elapsed(), took_s)

    def reply(self) -> Reply:
        """Return the reply as it stands."""
        audio = self._audio or [np.zeros(0, dtype=np.float32)]
        return Reply(
            text=self.text,
            audio=np.concatenate(audio),
            sample_rate=self._sample_rate,
            token_ids=tuple(self.tokens),
            units=tuple(self.units),
            unit_tokens=tuple(self._unit_tokens),
            sample_tokens=tuple(self._sample_tokens),
            lagging_words=self._lagging_words,
            finish_reason=self.finished or "cancelled",
            timings=replace(self._timings, total_s=self._elapsed(), **self._phases.seconds()),
        )

    def count_decoding(self, seconds: float) -> None:
        """Add a step's time to the reply's."""
        self._timings = replace(self._timings, decode_s=self._timings.decode_s + seconds)

    def _written(self, text: str) -> Iterator[ReplyEvent]:
        written = len(self.tokens) - (self.finished == "stop")  # a stop token has no text
        if text:
            self.text += text
            first = min(self._text_sent, max(written - 1, 0))  # a flushed character has its token
            yield TextDelta(text=text, first_token=first, end_token=written)
            self._text_sent = written

    def _spoken(self, end: int, *, final: bool) -> Iterator[ReplyEvent]:
        """Hand units up to `end` to the vocoder and give the sound that is certain."""
        begun = self._elapsed()
        if self._timings.first_chunk_units_s is None and end:
            self._timings = replace(self._timings, first_chunk_units_s=begun)
        spoken, self._sound = self._vocoder.push(
            self.units[self._pushed : end], self._sound, final=final
        )
        self._pushed = end
        spoken = replace(spoken, audio=spoken.audio.float().cpu())
        done = self._elapsed()
        yield from self._sounded(spoken, done, done - begun)

    def _sounded(self, spoken: Spoken, done: float, took_s: float) -> Iterator[ReplyEvent]:
        audio = spoken.audio.float().cpu().numpy()
        self._timings = replace(self._timings, vocode_s=self._timings.vocode_s + took_s)
        if not len(audio):
            return
        if not self._audio:
            self._lagging_words = count_words(self.text)
            self._timings = replace(
                self._timings, first_audio_s=done, first_vocode_s=self._timings.vocode_s
            )
        first_token, end_token = self._token_range(spoken)
        self._audio.append(audio)
        self._sample_tokens.append((first_token, end_token))
        yield AudioDelta(
            audio=audio,
            sample_rate=self._sample_rate,
            first_sample=spoken.first_sample,
            end_sample=spoken.end_sample,
            first_token=first_token,
            end_token=end_token,
            token_ends=self._token_ends(spoken, first_token, end_token),
        )

    def _token_ends(self, spoken: Spoken, first: int, end: int) -> tuple[int, ...]:
        """Return for each token of a range the sample where its sound in this piece ends."""
        ends = [spoken.first_sample] * (end - first)
        tokens = self._unit_tokens[spoken.first_unit : spoken.end_unit]
        for token, sample in zip(tokens, spoken.unit_ends, strict=True):
            ends[token - first] = sample
        return tuple(itertools.accumulate(ends, max))  # a token without units ends with the last

    def _token_range(self, spoken: Spoken) -> tuple[int, int]:
        tokens = self._unit_tokens[spoken.first_unit : spoken.end_unit]
        return (tokens[0], tokens[-1] + 1) if tokens else (0, 0)

    def _scheduled(self, index: int, labels: Sequence[int]) -> list[int]:
        """Make units at a fixed rate from whatever the decoder said: reduced, none repeated."""
        rate = self.options.units_per_token
        assert rate is not None
        count = int((index + 1) * rate) - int(index * rate)
        last, units = self.units[-1] if self.units else 0, []
        for label in itertools.islice(itertools.cycle(labels), count):
            last = (last + 1 + label % 7) % self._collapse.blank
            units.append(last)
        return units

    def _elapsed(self) -> float:
        return self._clock() - self._started


def generate(
    stepper: Stepper,
    context: Context,
    builder: ReplyBuilder,
    prompt_state: Float[Tensor, "1 D"],
    cancelled: Callable[[], bool],
    clock: Callable[[], float],
) -> Iterator[ReplyEvent]:
    """Make one reply in a context that has read its prompt.

    Args:
        stepper: the device side.
        context: the conversation's LLM slot.
        builder: the reply's host side.
        prompt_state: (1, D) what `Context.read` returned.
        cancelled: asked before every step.
        clock: monotonic seconds.

    Yields:
        Events, a `ReplyDone` last. The speech slot is free before it, or on closing the iterator.
    """
    options = builder.options
    with stepper.lock:
        slot = stepper.speech_cache.allocate() if options.speech else None
    row = Row(
        llm_slot=context.slot,
        speech_slot=slot,
        temperature=options.temperature,
        top_p=options.top_p,
        seed=options.seed,
    )
    try:
        result = None
        while builder.finished is None:
            if cancelled():
                builder.finished = "cancelled"
                break
            if builder.tokens and context.room < 1:
                builder.finished = "length"
                break
            begun = clock()
            if result is None:
                result = stepper.first([row], prompt_state)
            else:
                row = replace(row, position=len(builder.tokens))
                result = stepper.step([row], [builder.tokens[-1]])
                context.note(builder.tokens[-1])
            builder.count_decoding(clock() - begun)
            yield from builder.push(result.tokens[0], result.labels[0])
    finally:
        if slot is not None:
            with stepper.lock:
                stepper.speech_cache.free(slot)
    yield from builder.finish(builder.finished)
