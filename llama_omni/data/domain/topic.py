"""A topic: one kind of question, its wordings, and what of it is never trained on.

Every topic of four or more wordings keeps its last one for the tests; number topics also keep one
pair in five, and topics of facts with three wordings or more one combination of fact and wording in
ten. What is kept follows from a hash of the words, so that it never changes with the seed.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from llama_omni.data.domain.words import sentence
from llama_omni.data.records import Exchange

Slots = Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One question with its answer."""

    topic: str
    question: str
    answer: str
    held_out: bool
    history: tuple[Exchange, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Topic:
    """One kind of question. Wordings and answers are templates over the slots."""

    name: str
    draw: Callable[[Random], Slots]
    wordings: tuple[str, ...]
    answer: str
    weight: float = 1.0  # how often it is asked, against the others
    gate: bool = True  # counts for the model's headline accuracy
    holds_out_items: bool = False  # one draw of slots in five is kept for the tests
    history: tuple[str, str] | None = None  # templates of the question and answer before

    @property
    def holds_out(self) -> bool:
        """Some of its questions are never trained on."""
        return self.holds_out_items or len(self.wordings) >= 3

    def make(self, random: Random) -> Item:
        """Draw a question."""
        slots = dict(self.draw(random))
        index = random.randrange(len(self.wordings))
        key = "|".join((self.name, *(slots[name] for name in sorted(slots))))
        held = index == len(self.wordings) - 1 >= 3
        held |= self.holds_out_items and _tenth(key) < 2
        combines = not self.holds_out_items and len(self.wordings) >= 3
        held |= combines and _tenth(f"{key}|{index}") == 0
        before = ()
        if self.history is not None:
            asked, answered = (sentence(text.format(**slots)) for text in self.history)
            before = (Exchange(question=asked, answer=answered),)
        return Item(
            topic=self.name,
            question=sentence(self.wordings[index].format(**slots)),
            answer=sentence(self.answer.format(**slots)),
            held_out=held,
            history=before,
        )


def _tenth(key: str) -> int:
    """Return a number from 0 to 9 that depends on nothing but the words."""
    return hashlib.sha256(key.encode()).digest()[0] % 10
