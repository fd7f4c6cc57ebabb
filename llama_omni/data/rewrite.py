"""The first two steps of a data set: questions as one asks them aloud, answers as one says them.

Each step takes a record and gives a record, or why there is none. The result depends on the seed,
the record's id and its texts only (and, with a server, on its cache). All are safe for threads, and
all but those with a server are cheap to pickle.
"""

import random
import re
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from llama_omni.backends.chat import ChatEndpoint
from llama_omni.backends.chat_options import ChatFailure
from llama_omni.backends.parallel import in_order
from llama_omni.data.prompts import Prompt, load_prompt
from llama_omni.data.records import Exchange, Record, Reject
from llama_omni.data.speech_text import find_language, speakable, unspeakable
from llama_omni.errors import ConfigError

REWRITE, RESPOND = "rewrite", "respond"  # the stages, as rejects name them
MAX_QUESTION_WORDS = 60  # the paper's mean is 22
MAX_ANSWER_WORDS = 100  # the paper's mean is 40

# A first word that is not a name, and so loses its capital behind a filler.
_STARTERS = frozenset(
    "a an and are can could describe did do does explain find give has have how if in is list make "
    "name please say should tell the there to was were what when where which who why will with "
    "would write you your my on at for from it this that these those may might".split()
)


@runtime_checkable
class Rewriter(Protocol):
    """Turns written questions into spoken ones, those of the history too."""

    def rewrite(self, record: Record) -> Record | Reject:
        """Return the record with its questions as they are asked aloud, or why not."""
        ...

    def rewrite_many(self, records: Iterable[Record]) -> Iterator[Record | Reject]:
        """Yield the same for each record, in order, in parallel where that helps."""
        ...


@runtime_checkable
class Responder(Protocol):
    """Gives questions an answer that can be said, those of the history too."""

    def respond(self, record: Record) -> Record | Reject:
        """Return the record with an answer to every question, or why not."""
        ...

    def respond_many(self, records: Iterable[Record]) -> Iterator[Record | Reject]:
        """Yield the same for each record, in order, in parallel where that helps."""
        ...


_ENDS = ".?!\u3002\uff1f\uff01\u0964\u061f\u06d4"  # of sentences, in several scripts
_SENTENCE = re.compile(rf"[^{_ENDS}]+[{_ENDS}]?|[{_ENDS}]")
_ASKS = re.compile("[?\uff1f\u061f]")
_UNSPACED = re.compile("[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")  # Thai to kanji


class _Unusable(Exception):
    """Why a text cannot be used."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleRewriter:
    """Rewrites by rule, offline: signs and numbers in words, whole sentences up to a length.

    For a language without tables the length is all that it looks after.
    """

    seed: int = 0
    filler_share: float = 0.25  # of the questions that open with "hey" or "so"
    max_words: int = MAX_QUESTION_WORDS
    language: str = "en"

    def __post_init__(self) -> None:
        _check(self.max_words, self.language)
        if not 0.0 <= self.filler_share <= 1.0:
            raise ConfigError(f"filler_share must be 0 to 1, got {self.filler_share}")

    def rewrite(self, record: Record) -> Record | Reject:
        """Return the record with its questions as they are asked aloud, or why not."""
        try:
            history = tuple(
                replace(turn, question=self._clean(turn.question)) for turn in record.history
            )
            question = self._clean(record.question)
        except _Unusable as reason:
            return Reject(id=record.id, stage=REWRITE, reason=str(reason))
        draw = random.Random(f"{self.seed}/{record.id}/{REWRITE}")
        language = find_language(self.language)
        if language is not None and draw.random() < self.filler_share:
            question = _opened(question, draw.choice(language.openers))
        return replace(record, question=question, history=history)

    def rewrite_many(self, records: Iterable[Record]) -> Iterator[Record | Reject]:
        """Yield the same for each record, in order."""
        return map(self.rewrite, records)

    def _clean(self, text: str) -> str:
        whole = _said(text, self.language)
        short = _shortened(whole, self.max_words)
        if _ASKS.search(whole) and not _ASKS.search(short):
            raise _Unusable(f"the question comes after the first {self.max_words} words")
        return short


@dataclass(frozen=True, kw_only=True, slots=True)
class KeepResponder:
    """Keeps the answers that the source has, as far as they can be said."""

    max_words: int = MAX_ANSWER_WORDS
    language: str = "en"

    def __post_init__(self) -> None:
        _check(self.max_words, self.language)

    def respond(self, record: Record) -> Record | Reject:
        """Return the record with its answers cleaned, or why not."""
        try:
            history = tuple(
                replace(turn, answer=self._clean(turn.answer)) for turn in record.history
            )
            answer = self._clean(record.answer)
        except _Unusable as reason:
            return Reject(id=record.id, stage=RESPOND, reason=str(reason))
        return replace(record, answer=answer, history=history)

    def respond_many(self, records: Iterable[Record]) -> Iterator[Record | Reject]:
        """Yield the same for each record, in order."""
        return map(self.respond, records)

    def _clean(self, text: str | None) -> str:
        if text is None:
            raise _Unusable("no answer in the source")
        return _shortened(_said(text, self.language), self.max_words)


class _Asking:
    """What both steps with a server share."""

    _default: str
    _field: str

    def __init__(
        self,
        endpoint: ChatEndpoint,
        *,
        prompt: Prompt | None = None,
        max_words: int,
        language: str = "en",
    ) -> None:
        _check(max_words, language)
        self.endpoint = endpoint
        self.prompt = prompt if prompt is not None else load_prompt(self._default)
        self.max_words = max_words
        self.language = language

    def _ask(self, text: str, history: Iterable[Exchange], stop: threading.Event | None) -> str:
        values = {"question": text, "max_words": self.max_words}
        system, user = self.prompt.messages(values)
        messages = [{"role": "system", "content": system}]
        for turn in history:
            messages.append({"role": "user", "content": turn.question})
            messages.append({"role": "assistant", "content": turn.answer})
        messages.append({"role": "user", "content": user})
        schema = {
            "type": "object",
            "properties": {self._field: {"type": "string"}},
            "required": [self._field],
            "additionalProperties": False,
        }
        outcome = self.endpoint.ask(messages, schema, stop=stop)
        if isinstance(outcome, ChatFailure):
            raise _Unusable(outcome.reason)
        return _shortened(_said(outcome.value[self._field], self.language), self.max_words)


class EndpointRewriter(_Asking):
    """Has a language model rewrite, and cleans what it wrote by rule.

    What is asked depends on one question's text alone, so the questions of a conversation read the
    same in each of its records, and are paid for once.

    Args:
        endpoint: the server.
        prompt: None is the prompt `rewrite` that ships.
        max_words: of a question.
        language: of the texts.
    """

    _default, _field = "rewrite", "question"

    def __init__(
        self,
        endpoint: ChatEndpoint,
        *,
        prompt: Prompt | None = None,
        max_words: int = MAX_QUESTION_WORDS,
        language: str = "en",
    ) -> None:
        super().__init__(endpoint, prompt=prompt, max_words=max_words, language=language)

    def rewrite(self, record: Record, stop: threading.Event | None = None) -> Record | Reject:
        """Return the record with its questions as they are asked aloud, or why not.

        Args:
            record: its questions may be written in any way.
            stop: set from outside, it ends waiting for the server with an error.

        Raises:
            ToolError: the server is absent, fails or limits for too long.
            OutputError: the cache cannot be read or written.
        """
        try:
            history = tuple(
                replace(turn, question=self._ask(turn.question, (), stop))
                for turn in record.history
            )
            question = self._ask(record.question, (), stop)
        except _Unusable as reason:
            return Reject(id=record.id, stage=REWRITE, reason=str(reason))
        return replace(record, question=question, history=history)

    def rewrite_many(self, records: Iterable[Record]) -> Iterator[Record | Reject]:
        """Yield the same for each record, in order, as many at once as the endpoint allows."""
        options = self.endpoint.options
        width, ahead = options.concurrency, options.look_ahead
        return in_order(self.rewrite, records, workers=width, look_ahead=ahead)


class EndpointResponder(_Asking):
    """Has a language model answer, turn by turn, and cleans what it wrote by rule.

    The answers of the history are written anew too, each on top of those before, so that a
    conversation is of one voice; its records share their beginnings, which are paid for once.

    Args:
        endpoint: the server.
        prompt: None is the prompt `respond` that ships.
        max_words: of an answer.
        language: of the texts.
    """

    _default, _field = "respond", "answer"

    def __init__(
        self,
        endpoint: ChatEndpoint,
        *,
        prompt: Prompt | None = None,
        max_words: int = MAX_ANSWER_WORDS,
        language: str = "en",
    ) -> None:
        super().__init__(endpoint, prompt=prompt, max_words=max_words, language=language)

    def respond(self, record: Record, stop: threading.Event | None = None) -> Record | Reject:
        """Return the record with an answer to every question, or why not.

        Args:
            record: its questions are asked as they are.
            stop: set from outside, it ends waiting for the server with an error.

        Raises:
            ToolError: the server is absent, fails or limits for too long.
            OutputError: the cache cannot be read or written.
        """
        history: list[Exchange] = []
        try:
            for turn in record.history:
                answer = self._ask(turn.question, history, stop)
                history.append(Exchange(question=turn.question, answer=answer))
            answer = self._ask(record.question, history, stop)
        except _Unusable as reason:
            return Reject(id=record.id, stage=RESPOND, reason=str(reason))
        return replace(record, answer=answer, history=tuple(history))

    def respond_many(self, records: Iterable[Record]) -> Iterator[Record | Reject]:
        """Yield the same for each record, in order, as many at once as the endpoint allows."""
        options = self.endpoint.options
        width, ahead = options.concurrency, options.look_ahead
        return in_order(self.respond, records, workers=width, look_ahead=ahead)


def _check(max_words: int, language: str) -> None:
    if max_words < 1:
        raise ConfigError(f"max_words must be at least 1, got {max_words}")
    find_language(language)


def _said(text: str, language: str) -> str:
    """Return a text as a voice says it."""
    if reason := unspeakable(text, language):
        raise _Unusable(reason)
    said = speakable(text, language)
    if not said:
        raise _Unusable("nothing to say")
    return said


def _shortened(text: str, max_words: int) -> str:
    """Keep as many whole sentences, from the first, as have no more words than that."""
    kept = ""
    for sentence in _SENTENCE.findall(text):
        if _num_words(kept + sentence) > max_words:
            break
        kept += sentence
    if not kept:
        raise _Unusable(f"a first sentence of more than {max_words} words")
    return kept.strip()


def _num_words(text: str) -> int:
    """Count words; where none are marked off by spaces, two letters make about one."""
    unspaced = len(_UNSPACED.findall(text))
    spaced = [word for word in _UNSPACED.sub(" ", text).split() if word.strip(_ENDS)]
    return len(spaced) + (unspaced + 1) // 2


def _opened(question: str, opener: str) -> str:
    """Put a filler before a question."""
    first = re.split(r"[ ,.?!']", question, maxsplit=1)[0]
    if first.lower() in _STARTERS:
        question = question[0].lower() + question[1:]
    return f"{opener} {question}"
