"""What every assistant takes and gives: turns, options, reply events, replies.

NumPy only, no torch: the command line, the server and the evaluation harness know nothing else of
a system, so that our model and every baseline go through the same code. Audio is mono float32 in
[-1, 1]; spoken turns are at 16 kHz, replies at the assistant's own rate.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from os import PathLike
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from llama_omni import audio as audio_files
from llama_omni.errors import ConfigError, InputError

Audio = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Turn:
    """One turn of a conversation: written (`text`) or, for the user, spoken (`audio`)."""

    role: Literal["system", "user", "assistant"]
    text: str | None = None
    audio: Audio | None = None  # (S,) at 16 kHz
    token_ids: tuple[int, ...] | None = None  # an assistant's own words, exactly as generated

    def __post_init__(self) -> None:
        if (self.text is None) == (self.audio is None):
            raise InputError("a turn must hold either text or audio, got both or neither")
        if self.audio is not None and self.role != "user":
            raise InputError(f"only a user's turn can be spoken, got audio for role {self.role!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplyOptions:
    """How one reply is made. Defaults suit a conversation; evaluation sets chunk_size=None."""

    chunk_size: int | None = 10  # Omega: units per vocoder chunk; None is infinity (one chunk)
    lookahead: int | None = None  # units held back for the vocoder; None is its measured default
    max_new_tokens: int = 256
    temperature: float = 0.0  # 0 is greedy, as in the paper
    top_p: float = 1.0
    seed: int = 0
    speech: bool = True  # False: a written reply only; the speech decoder does not run
    units_per_token: float | None = None  # benchmarks only: emit units on this schedule

    def __post_init__(self) -> None:
        if self.chunk_size is not None and self.chunk_size < 1:
            raise ConfigError(f"chunk_size must be at least 1 unit, got {self.chunk_size}")
        if self.lookahead is not None and self.lookahead < 0:
            raise ConfigError(f"lookahead must be at least 0 units, got {self.lookahead}")
        if self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if not 0.0 <= self.temperature < float("inf"):
            raise ConfigError(f"temperature must be 0 or more, got {self.temperature}")
        if not 0.0 < self.top_p <= 1.0:
            raise ConfigError(f"top_p must be above 0 and at most 1, got {self.top_p}")
        if not -(2**63) <= self.seed < 2**63:
            raise ConfigError(f"seed must be a 64-bit integer, got {self.seed}")
        if self.units_per_token is not None and not self.units_per_token > 0:
            raise ConfigError(f"units_per_token must be above 0, got {self.units_per_token}")

    @classmethod
    def of(cls, options: "ReplyOptions | None", changes: dict[str, Any]) -> "ReplyOptions":
        """Change some options of others (or of the defaults), as callers write them in a call.

        Raises:
            ConfigError: there is no such option, or its value is impossible.
        """
        known = [item.name for item in fields(cls)]
        for name in changes:
            if name not in known:
                raise ConfigError(f"no option {name!r} of a reply; there are {', '.join(known)}")
        return replace(options or cls(), **changes)


@dataclass(frozen=True, kw_only=True, slots=True)
class TextDelta:
    """Text that reply tokens `first_token` to `end_token` (exclusive) completed."""

    text: str
    first_token: int
    end_token: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AudioDelta:
    """Samples `first_sample` to `end_sample` of the reply, which speak a range of its tokens.

    `token_ends` says for each token of the range the sample where its sound in this piece ends;
    empty where a system does not know, and then the piece is heard as a whole or not at all.
    """

    audio: Audio  # (S,)
    sample_rate: int
    first_sample: int
    end_sample: int
    first_token: int
    end_token: int
    token_ends: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Timings:
    """Where the time went, in seconds of a monotonic clock.

    `first_..._s` and `total_s` count from the moment the question was decoded and complete, and
    include what the reader of the events took; the others are the time of their phase alone.
    """

    mel_s: float = 0.0
    encode_s: float = 0.0
    adapt_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0  # all LLM and speech decoder steps of the reply
    vocode_s: float = 0.0  # all vocoder calls of the reply
    first_token_s: float | None = None
    first_chunk_units_s: float | None = None  # when the first chunk's units were known
    first_vocode_s: float | None = None  # the vocoder's own time on the first chunk
    first_audio_s: float | None = None  # None: the reply holds no sound
    total_s: float = 0.0

    @property
    def work_s(self) -> float:
        """Seconds of work: all phases, without what the reader of the events took."""
        heard = self.mel_s + self.encode_s + self.adapt_s
        return heard + self.prefill_s + self.decode_s + self.vocode_s


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Reply:
    """A complete (or cancelled) reply: what was written, what was said, and when."""

    text: str
    audio: Audio  # (S,)
    sample_rate: int
    token_ids: tuple[int, ...]
    units: tuple[int, ...]
    unit_tokens: tuple[int, ...]  # for each unit, the index of the reply token that it speaks
    sample_tokens: tuple[tuple[int, int], ...]  # token range of each AudioDelta
    lagging_words: int | None  # words already written when sound began; None without sound
    finish_reason: Literal["stop", "length", "cancelled"]
    timings: Timings = field(default_factory=Timings)

    @property
    def duration_s(self) -> float:
        """Seconds of sound."""
        return len(self.audio) / self.sample_rate

    @property
    def real_time_factor(self) -> float | None:
        """Seconds of work per second of sound; None without sound."""
        return self.timings.work_s / self.duration_s if len(self.audio) else None

    def save(self, path: str | PathLike[str]) -> None:
        """Write the sound; the format follows the file's suffix. The file appears whole or not."""
        audio_files.save(path, self.audio, self.sample_rate)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ReplyDone:
    """The last event of every reply."""

    reply: Reply


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplyFailed:
    """The last word on a reply that could not be made, where no exception can be raised."""

    kind: Literal["input", "capacity", "engine"]  # the asker's fault, no room, our fault
    message: str


ReplyEvent = TextDelta | AudioDelta | ReplyDone
Question = str | PathLike[str] | Audio | Turn


@runtime_checkable
class Conversation(Protocol):
    """Several turns with one assistant; keeps the history and whatever makes it cheap to go on."""

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The history so far, the system's turn first if there is one."""
        ...

    def stream(
        self, question: Question, options: ReplyOptions | None = None, **changes: Any
    ) -> Iterator[ReplyEvent]:
        """Answer, event by event. Closing the iterator cancels the reply.

        Args:
            question: a file, an array at 16 kHz, or a turn.
            options: how the reply is made.
            changes: options that differ, by name: `stream(question, chunk_size=20)`.
        """
        ...

    def reply(
        self, question: Question, options: ReplyOptions | None = None, **changes: Any
    ) -> Reply:
        """Answer, all at once."""
        ...

    def cancel(self) -> None:
        """Stop the running reply at its next step; its `ReplyDone` says "cancelled"."""
        ...

    def close(self) -> None:
        """Give back what the conversation holds on the device."""
        ...


@runtime_checkable
class AsyncConversation(Protocol):
    """A conversation of an event loop: no call waits, and every reply has a generation number.

    A reply is prepared first, unseen, then committed or abandoned. Generations grow; a call that
    names one which is not the running reply's does nothing. What is committed joins the history at
    once, its answer when the reply ends. `remote.client` has one whose engine is another process,
    `threads` one for any plain `Assistant`, which need not know of any of this.
    """

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The history so far, the system's turn first if there is one."""
        ...

    def prepare(
        self,
        question: Audio | Turn | None,
        options: ReplyOptions | None = None,
        *,
        generation: int | None = None,
        history: Sequence[Turn] | None = None,
    ) -> int:
        """Begin a reply that nobody sees yet; one that was prepared before is abandoned.

        Args:
            question: 16 kHz sound or a turn, which joins the history when the reply is committed;
                None answers the history as it is.
            options: how the reply is made.
            generation: of this reply, above all earlier ones; None takes the next.
            history: answer after these turns and leave the conversation as it is (out of band).

        Returns:
            The generation.

        Raises:
            InputError: the generation is not above the last one, or a committed reply is running.
        """
        ...

    def commit(self, generation: int | None = None) -> AsyncIterator[ReplyEvent]:
        """Give a prepared reply's events: those already made at once, `ReplyDone` last.

        Args:
            generation: None is the one prepared last.

        Raises:
            InputError: there is no such reply, now; the others from the iterator.
            CapacityError: too many wait, or the conversation is too long.
            EngineError: the reply failed, or what makes replies is gone.
        """
        ...

    def abandon(self, generation: int | None = None) -> None:
        """Drop a reply that was prepared and not committed; nothing of it remains."""
        ...

    def cancel(self, generation: int | None = None) -> None:
        """Stop a reply now; committed, its `ReplyDone` says "cancelled"."""
        ...

    def truncate(self, samples: int, generation: int | None = None) -> Turn | None:
        """Keep of an answer in the history only the tokens that its first samples speak.

        A running reply is cancelled first, and cut when its end has come.

        Args:
            samples: heard, at the reply's rate.
            generation: of the reply; None is the last one.

        Returns:
            The answer that remains, as far as it is known now; None: nothing of it was heard, or
            the reply is none of the history's.
        """
        ...

    def add(self, turn: Turn) -> None:
        """Put a turn at the end of the history."""
        ...

    def replace(self, turns: Sequence[Turn]) -> None:
        """Take these turns for the history, as after the deletion of an item."""
        ...

    def close(self) -> None:
        """Give back all that the conversation holds; a running reply is cancelled."""
        ...


@runtime_checkable
class AsyncAssistant(Protocol):
    """A system that holds many conversations at once for one event loop."""

    @property
    def sample_rate(self) -> int:
        """Samples per second of its replies."""
        ...

    @property
    def ready(self) -> bool:
        """Whether it can answer now."""
        ...

    def conversation(self, system: str | None = None) -> AsyncConversation:
        """Begin a conversation."""
        ...


@runtime_checkable
class Assistant(Protocol):
    """A system that is asked by voice or in writing, and answers in both."""

    @property
    def sample_rate(self) -> int:
        """Samples per second of its replies."""
        ...

    def conversation(self, system: str | None = None) -> Conversation:
        """Begin a conversation."""
        ...

    def stream(
        self, question: Question, options: ReplyOptions | None = None, **changes: Any
    ) -> Iterator[ReplyEvent]:
        """Answer one question, event by event, with no history."""
        ...

    def reply(
        self, question: Question, options: ReplyOptions | None = None, **changes: Any
    ) -> Reply:
        """Answer one question with no history, all at once."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Voice:
    """One voice of a synthesizer, and what must be said of it in a data set's card."""

    name: str  # "program:voice", such as "flite:rms"
    sample_rate: int
    licence: str  # of the voice's data, "unknown" where the program does not say


@runtime_checkable
class Synthesizer(Protocol):
    """A program, model or server that speaks text, in one or several voices."""

    @property
    def voices(self) -> tuple[Voice, ...]:
        """The voices that can be asked for here and now."""
        ...

    def say(self, text: str, *, voice: str, speed: float = 1.0, pitch: float = 1.0) -> Audio:
        """Return the sound of a text at 16 kHz.

        Args:
            text: one utterance; nothing of it is read as a command.
            voice: the name of one of `voices`.
            speed: above 1 is faster, at equal pitch.
            pitch: above 1 is higher, at equal speed; ignored where the program cannot.

        Raises:
            ToolError: the program or server is absent, refuses or fails.
            InputError: the voice is unknown, or the text holds nothing to say.
        """
        ...

    def close(self) -> None:
        """End whatever runs in the background."""
        ...


@runtime_checkable
class Recognizer(Protocol):
    """A program, model or server that writes down what it hears."""

    def transcribe(self, audio: Audio) -> str:
        """Return the words of 16 kHz sound, lower case, without punctuation."""
        ...
