"""What stage 1 learns beside the spoken questions: other splits, and questions never spoken.

A language model that is trained on speech alone forgets; written questions of its own kind keep
what it knows.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import ConcatDataset, Dataset

from llama_omni.data.dataset import Example, HistoryTurn
from llama_omni.data.records import Record
from llama_omni.data.sources import Columns, Source, read_sources
from llama_omni.errors import InputError

CHARS_PER_S = 15.0  # of speech, so that a written question has a length among spoken ones


class WrittenQuestions(Dataset[Example]):
    """Answered records of a source, as rows without sound.

    Args:
        source: A file or folder with the columns question and answer, or "tiny" for the tiny
            model's world.
        limit: The first so many records.
        seed: Of sources that draw their records.

    Raises:
        InputError: the source is empty or broken, or a record has no answer.
    """

    def __init__(self, source: str, *, limit: int | None, seed: int) -> None:
        columns = Columns(question="question", answer="answer")
        kind = "tiny" if source == "tiny" else "table"
        chosen = Source(kind=kind, path=source, limit=limit, columns=columns, hub_split=None)
        self._records = [item.record for item in read_sources((chosen,), seed=seed)]
        for record in self._records:
            if record.answer is None:
                raise InputError(f"{source}, {record.id}: a written question must have an answer")
        self.ids = [f"written-{record.id}" for record in self._records]
        chars = [len(record.question) for record in self._records]
        self.seconds = np.array(chars, np.float32) / CHARS_PER_S  # (N,)

    def __len__(self) -> int:
        return len(self._records)

    @property
    def digest(self) -> str:
        """A hash of all questions, answers and earlier turns."""
        texts = [[each.id, each.question, each.answer, each.history] for each in self._records]
        return blake2b(repr(texts).encode(), digest_size=16).hexdigest()

    def __getitem__(self, row: int) -> Example:
        return _example(self.ids[row], self._records[row])


class Joined(ConcatDataset[Any]):
    """Several sets of rows as one.

    Args:
        parts: With `ids`.
        seconds: Of the rows of each part.
    """

    def __init__(self, parts: Sequence[Any], seconds: Sequence[NDArray[np.float32]]) -> None:
        super().__init__(parts)
        self.ids = [name for part in parts for name in part.ids]
        self.seconds = np.concatenate(seconds)  # (N,)


def _example(name: str, record: Record) -> Example:
    return Example(
        id=name,
        intent=record.intent,
        voice="",
        question=record.question,
        audio=np.zeros(0, np.float32),
        answer=record.answer or "",
        answer_audio=None,
        units=None,
        durations=None,
        history=tuple(
            HistoryTurn(question=turn.question, answer=turn.answer, audio=None)
            for turn in record.history
        ),
        written=True,
    )
