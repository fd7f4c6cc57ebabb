"""A record: one spoken question to be and its answer, before any sound is made."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Exchange:
    """One earlier question of a conversation, with its answer."""

    question: str
    answer: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One question, its answer, and what came before in the same conversation."""

    id: str  # unique within a data set; letters, digits and ._- so that it can name a file
    question: str
    answer: str | None = None  # None: still to be written by `respond`
    history: tuple[Exchange, ...] = ()
    source: str = ""  # "alpaca", "ultrachat", "tiny", ...
    intent: str | None = None  # kind of question, where the source knows it
    split: str = "train"  # or a held-out set's name
    voice: str | None = None  # of the question; None: drawn by the recipe


@dataclass(frozen=True, kw_only=True, slots=True)
class Reject:
    """A record that did not become part of the data set, and why."""

    id: str  # of the record
    stage: str  # "rewrite", "respond", ...
    reason: str  # one line, the same words for the same cause so that they can be counted
