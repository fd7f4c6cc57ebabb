"""Texts as rows of token ids and labels, encoded once and kept in two flat arrays."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from jaxtyping import Int

from llama_omni.data.records import Record
from llama_omni.errors import InputError
from llama_omni.interfaces import Turn
from llama_omni.model.tokenizer import TextTokenizer
from llama_omni.prompt import IGNORE, PromptTemplate, encode_example


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TextRow:
    """One text. A label is the id itself, or IGNORE where nothing is to be learnt."""

    ids: Int[np.ndarray, " T"]
    labels: Int[np.ndarray, " T"]


class TextRows:
    """A data set for the runner; `of_records` and `of_documents` make it."""

    def __init__(self, rows: Iterable[tuple[list[int], list[int]]]) -> None:
        ids, labels, ends = [], [], []
        total = 0
        for row_ids, row_labels in rows:
            ids.append(np.array(row_ids, np.int32))
            labels.append(np.array(row_labels, np.int32))
            total += len(row_ids)
            ends.append(total)
        if not ends:
            raise InputError("texts must hold at least one text to learn from, got none")
        self._ids, self._labels = np.concatenate(ids), np.concatenate(labels)
        self._ends = np.array(ends, np.int64)

    @classmethod
    def of_records(
        cls, records: Iterable[Record], tokenizer: TextTokenizer, template: PromptTemplate
    ) -> "TextRows":
        """Encode conversations as the model will see them; the answers are labelled."""
        encode = _fast(tokenizer)
        return cls(
            encode_example(turns_of(record), encode, template, bos_token_id=tokenizer.bos_token_id)
            for record in records
            if record.answer is not None
        )

    @classmethod
    def of_documents(
        cls, texts: Iterable[str], tokenizer: TextTokenizer, *, block: int
    ) -> "TextRows":
        """Encode plain texts, one after the other, cut into blocks of so many tokens.

        A new language begins here: everything is labelled, and a text ends with the tokeniser's
        end-of-sequence token.
        """
        encode = _fast(tokenizer)

        def blocks() -> Iterable[tuple[list[int], list[int]]]:
            held: list[int] = []
            for text in texts:
                held += [*encode(text), tokenizer.inner.eos_token_id]
                while len(held) >= block:
                    yield held[:block], held[:block]
                    held = held[block:]
            if len(held) > 1:
                yield held, held

        return cls(blocks())

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, row: int) -> TextRow:
        if not 0 <= row < len(self):
            raise IndexError(f"row must be below {len(self)}, got {row}")
        part = slice(self._ends[row - 1] if row else 0, self._ends[row])
        return TextRow(ids=self._ids[part], labels=self._labels[part])

    @property
    def lengths(self) -> Int[np.ndarray, " N"]:
        """Tokens of each row."""
        return np.diff(self._ends, prepend=0)

    @property
    def digest(self) -> str:
        """A hash of all rows: of the texts, as a tokeniser and a template wrote them."""
        arrays = (self._ids, self._labels, self._ends)
        return blake2b(b"".join(each.tobytes() for each in arrays), digest_size=16).hexdigest()

    @property
    def num_labels(self) -> int:
        """Labelled tokens of all rows."""
        return int((self._labels != IGNORE).sum())


def turns_of(record: Record, *, answered: bool = True) -> list[Turn]:
    """Return the turns of a record's conversation, with or without its last answer."""
    turns: list[Turn] = []
    for exchange in record.history:
        turns.append(Turn(role="user", text=exchange.question))
        turns.append(Turn(role="assistant", text=exchange.answer))
    turns.append(Turn(role="user", text=record.question))
    if answered:
        turns.append(Turn(role="assistant", text=record.answer))
    return turns


def _fast(tokenizer: TextTokenizer) -> Callable[[str], list[int]]:
    """Return the same encoding without what Transformers does around it, where that is known."""
    backend = getattr(tokenizer.inner, "backend_tokenizer", None)
    return tokenizer.encode if backend is None else lambda text: backend.encode(text).ids
