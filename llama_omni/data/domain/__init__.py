"""The tiny model's world: simple questions with one right answer each, and a refusal of the rest.

`tiny_records` is the source that the recipe `tiny` builds its data set from. Everything is our own
text; the facts are common knowledge.
"""

import re
from collections.abc import Iterator
from random import Random

from llama_omni.data.domain import arithmetic, calendar, knowledge, talk
from llama_omni.data.domain.talk import REFUSAL
from llama_omni.data.domain.topic import Item, Topic
from llama_omni.data.domain.words import sentence
from llama_omni.data.records import Record
from llama_omni.errors import ConfigError

__all__ = [
    "GATE_INTENTS",
    "LATER_INTENTS",
    "REFUSAL",
    "SPLITS",
    "TOPICS",
    "TRAINED_INTENTS",
    "accepts",
    "tiny_records",
]

TOPICS: tuple[Topic, ...] = (
    *arithmetic.TOPICS,
    *calendar.TOPICS,
    *knowledge.TOPICS,
    *talk.TOPICS,
    *arithmetic.FOLLOW_UPS,
    *knowledge.FOLLOW_UPS,
    talk.OUTSIDE,
)
GATE_INTENTS = tuple(topic.name for topic in TOPICS if topic.gate and topic is not talk.OUTSIDE)
LATER_INTENTS = tuple(topic.name for topic in TOPICS if not topic.gate)
# Everyday phrases and whole small sets, of which nothing is held out: tests ask what was trained.
TRAINED_INTENTS = tuple(
    name for topic in TOPICS if (name := topic.name) in GATE_INTENTS and not topic.holds_out
)
SPLITS = ("train", "words", "test_seen", "test_unseen", "outside")
_TRIES = 400  # draws before a topic counts as exhausted


def tiny_records(seed: int, num_records: int, *, split: str = "train") -> Iterator[Record]:
    """Draw records of one split.

    Args:
        seed: the same seed gives the same records; the first ones of a longer draw are the same.
        num_records: how many at most. A test split ends earlier where its questions run out.
        split: "train" never holds a held-out question; "test_seen" and "test_unseen" hold the
            same kind of held-out questions, each once, for voices heard in training and for others
            (a topic that holds nothing out gives its trained questions); "outside" holds held-out
            questions that are to be refused; "words" holds pieces of trained questions in new
            orders, which mean nothing, for an ear that must not guess what comes next.

    Raises:
        ConfigError: there is no such split.
    """
    if split not in SPLITS:
        raise ConfigError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    random = Random(f"{seed}/{split}")
    seen: set[tuple[str, ...]] = set()
    for index in range(num_records):
        item = _mixed(random) if split == "words" else _draw(random, split, seen)
        if item is None:
            return
        yield Record(
            id=f"tiny-{split}-{seed}-{index:06d}",
            question=item.question,
            answer=item.answer,
            history=item.history,
            source="tiny",
            intent=item.topic,
            split=split,
        )


def _draw(random: Random, split: str, seen: set[tuple[str, ...]]) -> Item | None:
    """Return the next question of a split, or None where none is left."""
    for _ in range(_TRIES):
        topic = _topic(random, split)
        item = topic.make(random)
        if split == "train":
            if item.held_out:
                continue
            return item
        key = (*(turn.question for turn in item.history), item.question)
        if key in seen or item.held_out != topic.holds_out:
            continue
        seen.add(key)
        return item
    return None


def _mixed(random: Random) -> Item:
    """Return two to four pieces of trained questions, every topic as often as another."""
    pieces: list[str] = []
    wanted = random.randint(2, 4)
    while len(pieces) < wanted:
        item = random.choice(TOPICS).make(random)
        if not item.held_out:
            words = item.question.strip(".?!").lower().split()
            first = random.randrange(len(words))
            pieces += [" ".join(words[first : first + random.randint(1, 3)])]
    return Item(
        topic="words", question=sentence(f"{' '.join(pieces)}."), answer=REFUSAL, held_out=False
    )


def _topic(random: Random, split: str) -> Topic:
    if split == "outside":
        return talk.OUTSIDE
    choices = (
        TOPICS if split == "train" else [topic for topic in TOPICS if topic is not talk.OUTSIDE]
    )
    if split != "train":  # every intent counts in a test, however rare
        return random.choice(choices)
    return random.choices(choices, weights=[topic.weight for topic in choices])[0]


def accepts(answer: str, reply: str) -> bool:
    """Tell whether a reply says what the answer says: equal but for case and punctuation."""
    return _words(answer) == _words(reply)


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.lower())
