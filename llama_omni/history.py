"""The history of a conversation: what was asked, what was answered, and how much of it was heard.

Torch-free, and the same code on both sides of a process boundary: told the same calls and events,
both hold the same turns. What is unusual: an answer has its place from the moment its question is
committed, so turns added while it is spoken come after it; and it can be cut to the samples that a
listener heard, from the token ranges of its events alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from llama_omni.errors import InputError
from llama_omni.interfaces import AudioDelta, Reply, ReplyDone, ReplyEvent, TextDelta, Turn

KEPT_RECORDS = 16  # replies that can still be cut
_NO_SOUND = np.zeros((), np.float32)


class ReplyRecord:
    """Which tokens of a reply the first samples of its sound speak, told by its events.

    Keeps the length of the sound, not the sound: many replies of many conversations are kept.
    """

    def __init__(self) -> None:
        self.reply: Reply | None = None
        self._texts: list[tuple[int, str]] = []  # end token, text
        self._ends: list[int] = []  # for each token, the sample where its sound ends

    def note(self, event: ReplyEvent) -> None:
        """Take the next event of the reply."""
        if isinstance(event, TextDelta):
            self._texts.append((event.end_token, event.text))
        elif isinstance(event, AudioDelta):
            tokens = range(event.first_token, event.end_token)
            for token in tokens:
                while len(self._ends) <= token:  # a token without sound ends where it would begin
                    self._ends.append(event.first_sample)
                place = token - event.first_token
                self._ends[token] = (
                    event.token_ends[place] if event.token_ends else event.end_sample
                )
        else:
            silence = np.broadcast_to(_NO_SOUND, event.reply.audio.shape)  # takes no memory
            self.reply = replace(event.reply, audio=silence, units=(), unit_tokens=())

    def tokens_heard(self, samples: int) -> int:
        """Count the tokens whose whole sound lies within the first `samples` samples."""
        if self.reply is not None and samples >= len(self.reply.audio):
            return len(self.reply.token_ids)
        count = next((i for i, end in enumerate(self._ends) if end > samples), len(self._ends))
        return count if samples > 0 else 0

    def answer(self, samples: int | None = None) -> Turn | None:
        """Return the assistant's turn, cut to what `samples` speak; None where nothing is left."""
        if self.reply is not None and not self.reply.token_ids:
            return self._proportional(self.reply, samples)
        tokens = self.tokens_heard(samples) if samples is not None else None
        if self.reply is None:
            text = "".join(text for end, text in self._texts if tokens is None or end <= tokens)
            return Turn(role="assistant", text=text) if text else None
        if tokens is None or tokens >= len(self.reply.token_ids):
            return _turn(self.reply.text, self.reply.token_ids)
        text = "".join(text for end, text in self._texts if end <= tokens)
        return _turn(text, self.reply.token_ids[:tokens])

    def _proportional(self, reply: Reply, samples: int | None) -> Turn | None:
        """Cut the words of a system without tokens by its share of sound."""
        if samples is None or samples >= len(reply.audio):
            return Turn(role="assistant", text=reply.text) if reply.text else None
        words = reply.text.split()
        kept = words[: len(words) * samples // len(reply.audio)]
        return Turn(role="assistant", text=" ".join(kept)) if kept else None


@dataclass(kw_only=True, slots=True, eq=False)
class _Entry:
    """A place in the history; empty while the answer that belongs there is being made."""

    turn: Turn | None = None


@dataclass(kw_only=True, slots=True, eq=False)
class _Record:
    """A reply of this conversation, from its preparation on."""

    question: Turn | None
    in_history: bool  # False: out of band
    committed: bool = False
    ended: bool = False  # its last event is here
    cancelled: bool = False
    heard: int | None = None  # samples: cut it there when it has ended
    asked: _Entry | None = None
    answered: _Entry | None = None
    reply: ReplyRecord = field(default_factory=ReplyRecord)

    @property
    def running(self) -> bool:
        return self.committed and not self.ended and not self.cancelled


class History:
    """Turns of one conversation, and the replies that may still change them."""

    def __init__(self, turns: Sequence[Turn] = ()) -> None:
        self._entries = [_Entry(turn=turn) for turn in turns]
        self._records: dict[int, _Record] = {}
        self.generation = 0  # of the reply prepared last

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The history so far."""
        return tuple(entry.turn for entry in self._entries if entry.turn is not None)

    @property
    def running(self) -> int | None:
        """Generation of the committed reply that has not ended."""
        return next((key for key, record in self._records.items() if record.running), None)

    def add(self, turn: Turn) -> None:
        """Put a turn at the end."""
        self._entries.append(_Entry(turn=turn))

    def replace(self, turns: Sequence[Turn]) -> None:
        """Take these turns instead; an answer being made comes after them."""
        entries = [_Entry(turn=turn) for turn in turns]
        for record in self._records.values():
            if record.answered is not None:
                old = record.answered.turn
                found = [e for e in entries if old is not None and _same(e.turn, old)]
                record.answered = found[-1] if found else None
                if record.committed and not record.ended and record.in_history:
                    record.answered = _Entry()
                    entries.append(record.answered)
            record.asked = None  # a failure takes back only what `replace` did not confirm
        self._entries = entries

    def prepare(
        self, question: Turn | None, *, generation: int | None = None, in_history: bool = True
    ) -> int:
        """Begin a reply, not yet part of the history; return its generation.

        Raises:
            InputError: the generation is not above the last one, or a committed reply is running.
        """
        if self.running is not None:
            raise InputError("a conversation gives one reply at a time; cancel the running one")
        chosen = self.generation + 1 if generation is None else generation
        if chosen <= self.generation:
            raise InputError(
                f"generation must be above {self.generation}, the last one, got {chosen}"
            )
        self.abandon(self.generation)
        self.generation = chosen
        self._records[chosen] = _Record(question=question, in_history=in_history)
        while len(self._records) > KEPT_RECORDS:
            del self._records[next(iter(self._records))]
        return chosen

    def commit(self, generation: int) -> bool:
        """Show a prepared reply; False where there is none such."""
        record = self._records.get(generation)
        if record is None or record.committed:
            return False
        record.committed = True
        if record.in_history:
            if record.question is not None:
                record.asked = _Entry(turn=record.question)
                self._entries.append(record.asked)
            record.answered = _Entry()
            self._entries.append(record.answered)
            self._settle(record)
        return True

    def abandon(self, generation: int) -> None:
        """Forget a reply that was prepared and not committed."""
        record = self._records.get(generation)
        if record is not None and not record.committed:
            del self._records[generation]

    def knows(self, generation: int) -> bool:
        """Tell whether a reply is remembered: neither abandoned nor failed."""
        return generation in self._records

    def cancel(self, generation: int) -> None:
        """Let another reply be prepared before the last event of this one is here."""
        record = self._records.get(generation)
        if record is not None:
            record.cancelled = True

    def note(self, generation: int, event: ReplyEvent) -> None:
        """Take an event of a reply."""
        record = self._records.get(generation)
        if record is None or record.ended:
            return
        record.reply.note(event)
        if isinstance(event, ReplyDone):
            record.ended = True
            self._settle(record)

    def fail(self, generation: int) -> None:
        """Take a reply and its question out, as if it had never been asked."""
        record = self._records.pop(generation, None)
        if record is not None and not record.ended:
            gone = (record.asked, record.answered)
            self._entries = [entry for entry in self._entries if entry not in gone]

    @property
    def last_answer(self) -> int:
        """Generation of the last reply that has a place in the history; 0: there is none."""
        found = [key for key, record in self._records.items() if record.answered is not None]
        return max(found, default=0)

    def answer(self, generation: int) -> Turn | None:
        """Return a reply's turn in the history."""
        record = self._records.get(generation)
        return record.answered.turn if record is not None and record.answered is not None else None

    def truncate(self, samples: int, generation: int | None = None) -> Turn | None:
        """Cut an answer to what its first samples speak; see `AsyncConversation.truncate`."""
        record = self._records.get(self.last_answer if generation is None else generation)
        if record is None or record.answered is None:
            return None
        record.heard = samples if record.heard is None else min(samples, record.heard)
        self._settle(record)
        return record.answered.turn if record.ended else record.reply.answer(record.heard)

    def _settle(self, record: _Record) -> None:
        """Write into the history what is known of an answer that has ended."""
        if record.ended and record.answered is not None:
            record.answered.turn = record.reply.answer(record.heard)


def _turn(text: str, token_ids: tuple[int, ...]) -> Turn | None:
    return Turn(role="assistant", text=text, token_ids=token_ids) if token_ids else None


def _same(left: Turn | None, right: Turn) -> bool:
    return left is not None and (left.role, left.text, left.token_ids) == (
        right.role,
        right.text,
        right.token_ids,
    )
