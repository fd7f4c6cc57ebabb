"""Our model behind the `Assistant` interface: one question, or a conversation."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any

import numpy as np
import torch

from llama_omni import audio
from llama_omni.engine.context import Context, SpokenTurn
from llama_omni.engine.listening import listen
from llama_omni.engine.phases import Phases
from llama_omni.engine.reply import ReplyBuilder, generate
from llama_omni.engine.step import Stepper
from llama_omni.errors import ConfigError, InputError
from llama_omni.interfaces import (
    Audio,
    Question,
    Reply,
    ReplyDone,
    ReplyEvent,
    ReplyOptions,
    Turn,
)
from llama_omni.model.omni import OmniModel
from llama_omni.model.tokenizer import TextTokenizer
from llama_omni.model.vocoder import UnitVocoder
from llama_omni.prompt import encode_prompt, prompt_template


class LlamaOmniAssistant:
    """A speech-to-speech language model on one device.

    Args:
        model: on its device, in its dtype.
        tokenizer: the LLM's.
        vocoder: speaks the model's units.
        system: system prompt of every conversation; None is the prompt template's own.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        model: OmniModel,
        tokenizer: TextTokenizer,
        vocoder: UnitVocoder,
        *,
        system: str | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if vocoder.num_units != model.config.speech_decoder.num_units:
            raise ConfigError(
                "the vocoder must speak the model's units: "
                f"{model.config.speech_decoder.num_units}, got one for {vocoder.num_units}"
            )
        self.model, self.tokenizer, self.vocoder = model.eval(), tokenizer, vocoder.eval()
        self.stepper = Stepper(model, max_tokens=model.config.max_positions)
        self.template = prompt_template(model.config.prompt)
        self.system, self.clock = system, clock

    @property
    def sample_rate(self) -> int:
        """Samples per second of replies."""
        return self.vocoder.sample_rate

    def conversation(self, system: str | None = None) -> "OmniConversation":
        """Begin a conversation; `system` replaces the assistant's system prompt."""
        return OmniConversation(self, system if system is not None else self.system)

    def stream(
        self, question: Question, options: ReplyOptions | None = None, **changes: Any
    ) -> Iterator[ReplyEvent]:
        """Answer one question, event by event, with no history."""
        conversation = self.conversation()
        try:
            yield from conversation.stream(question, options, **changes)
        finally:
            conversation.close()

    def reply(
        self, question: Question, options: ReplyOptions | None = None, **changes: Any
    ) -> Reply:
        """Answer one question with no history, all at once."""
        return _last(self.stream(question, options, **changes))

    def hear(self, question: Question) -> Turn:
        """Turn a file, an array at 16 kHz, or a turn into the user's turn.

        Raises:
            AudioError: the sound cannot be used; the message says why and what could.
        """
        limits = {
            "min_s": self.model.config.adapter.stack / audio.ENCODER_RATE,
            "max_s": self.model.config.window_s,
        }
        if isinstance(question, Turn):
            if question.role != "user":
                raise InputError(f"a question must be the user's turn, got {question.role!r}")
            if question.audio is None:
                return question
            checked = audio.check(question.audio, **limits)
            return replace(question, audio=checked)
        if isinstance(question, str | PathLike):
            return Turn(role="user", audio=audio.load(question, **limits))
        return Turn(role="user", audio=audio.check(question, **limits))

    def warm_up(self, *, tokens: int = 256) -> None:
        """Do once what first calls are slow at: a short reply, and on CUDA the steps' graphs."""
        silence = np.zeros(audio.SAMPLE_RATE, dtype=np.float32)
        self.reply(silence, ReplyOptions(max_new_tokens=2, chunk_size=1, units_per_token=10.0))
        self.stepper.warm_up(tokens=min(tokens, self.model.config.max_positions))

    def listen(self, sound: Audio, phases: Phases) -> SpokenTurn:
        """Turn 16 kHz sound into speech embeddings, timing each part."""
        return listen(self.model, sound, phases)


class OmniConversation:
    """Several turns with one `LlamaOmniAssistant`; a turn reads only what earlier ones did not."""

    def __init__(self, assistant: LlamaOmniAssistant, system: str | None) -> None:
        self._assistant = assistant
        self._turns = [] if system is None else [Turn(role="system", text=system)]
        self._spoken: dict[int, SpokenTurn] = {}  # by index of the turn
        self._context: Context | None = None
        self._cancelled = threading.Event()
        self._running = False
        self._closed = False  # while a reply was running

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The history so far, the system's turn first if there is one."""
        return tuple(self._turns)

    @property
    def reused_positions(self) -> int:
        """LLM positions of the last prompt that did not have to be read again."""
        return self._context.reused if self._context else 0

    def stream(
        self, question: Question, options: ReplyOptions | None = None, **changes: Any
    ) -> Iterator[ReplyEvent]:
        """Answer, event by event. Closing the iterator cancels the reply.

        What was generated joins the history, also of a cancelled reply; a question that failed
        does not.

        Raises:
            AudioError: the sound cannot be used.
            InputError: another reply of this conversation is running.
            CapacityError: the conversation is longer than the model's positions.
        """
        self._refuse_while_running()
        chosen = ReplyOptions.of(options, changes)
        turn = self._assistant.hear(question)
        self._cancelled.clear()  # now, not at the first event: a cancel may come before it
        return self._answer(turn, chosen)

    def _answer(self, turn: Turn, options: ReplyOptions) -> Iterator[ReplyEvent]:
        self._refuse_while_running()
        self._running = True
        assistant, clock = self._assistant, self._assistant.clock
        started = clock()
        builder = None
        asked = len(self._turns)
        self._turns.append(turn)
        try:
            phases = Phases(assistant.model.device, clock)
            context, state = self._read_prompt(phases)
            builder = ReplyBuilder(
                options,
                vocoder=assistant.vocoder,
                decode=assistant.tokenizer.decode,
                stop_ids=assistant.model.config.stop_token_ids,
                clock=clock,
                started=started,
                phases=phases,
            )
            cancelled = self._cancelled.is_set
            for event in generate(assistant.stepper, context, builder, state, cancelled, clock):
                if isinstance(event, ReplyDone):
                    self._conclude(builder)  # whoever sees the reply may ask again at once
                yield event
        except Exception:
            if builder is None or not builder.tokens:  # as if it had never been asked
                del self._turns[asked:]
                self._spoken.pop(asked, None)
            raise
        finally:
            self._conclude(builder)

    def _conclude(self, builder: ReplyBuilder | None) -> None:
        if not self._running:
            return
        self._running = False
        if builder is not None and builder.tokens:
            self._turns.append(
                Turn(role="assistant", text=builder.text, token_ids=tuple(builder.tokens))
            )
        if self._closed:
            self.close()

    def _refuse_while_running(self) -> None:
        if self._running:
            raise InputError("a conversation gives one reply at a time; cancel the running one")

    def reply(
        self, question: Question, options: ReplyOptions | None = None, **changes: Any
    ) -> Reply:
        """Answer, all at once."""
        return _last(self.stream(question, options, **changes))

    def replace(self, turns: Sequence[Turn]) -> None:
        """Take these turns for the history; the next reply reads what is new in them.

        Raises:
            InputError: a reply is running.
        """
        self._refuse_while_running()
        self._turns, self._spoken = list(turns), {}

    def cancel(self) -> None:
        """Stop the running reply at its next step; may be called from another thread."""
        self._cancelled.set()

    def close(self) -> None:
        """Give back what the conversation holds on the device; a running reply is cancelled."""
        self._closed = self._running
        if self._running:
            self._cancelled.set()
        elif self._context is not None:
            self._context.close()
            self._context = None

    def _read_prompt(self, phases: Phases) -> tuple[Context, torch.Tensor]:
        assistant = self._assistant
        for index, turn in enumerate(self._turns):
            if turn.audio is not None and index not in self._spoken:
                self._spoken[index] = assistant.listen(turn.audio, phases)
        prompt = encode_prompt(
            self._turns,
            assistant.tokenizer.encode,
            assistant.template,
            bos_token_id=assistant.tokenizer.bos_token_id,
        )
        if self._context is None:
            self._context = Context(assistant.stepper)
        with phases("prefill_s"):
            state = self._context.read(prompt, [self._spoken[i] for i in sorted(self._spoken)])
        return self._context, state


def _last(events: Iterator[ReplyEvent]) -> Reply:
    for event in events:
        if isinstance(event, ReplyDone):
            return event.reply
    raise AssertionError("a reply ends in ReplyDone")
