"""Shares and error rates with 95 % bootstrap intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

from llama_omni.metrics import bootstrap_interval, spoken_words, wer


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """Events per case: right answers per question, or errors per word, with its interval."""

    value: float
    low: float
    high: float
    events: int
    cases: int
    items: int  # independent ones, which were drawn anew for the interval


def share(flags: Sequence[bool], *, seed: int = 0) -> Estimate | None:
    """Return which share of items is true; None of no items."""
    return rate([(int(flag), 1) for flag in flags], seed=seed)


def rate(pairs: Sequence[tuple[int, int]], *, seed: int = 0) -> Estimate | None:
    """Return the events over the cases of all items, (events, cases) each; None of no cases."""
    events, cases = sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)
    if not cases:
        return None

    def ratio(drawn: list[tuple[int, int]]) -> float:
        return sum(pair[0] for pair in drawn) / max(1, sum(pair[1] for pair in drawn))

    low, high = bootstrap_interval(list(pairs), ratio, seed=seed)
    return Estimate(
        value=events / cases, low=low, high=high, events=events, cases=cases, items=len(pairs)
    )


def word_errors(reference: str, heard: str) -> tuple[int, int]:
    """Return the errors and the words of one text."""
    return sequence_errors(spoken_words(reference), spoken_words(heard))


def sequence_errors(reference: Sequence[object], found: Sequence[object]) -> tuple[int, int]:
    """Return the fewest edits between two sequences, and the length of the first."""
    if not reference:
        return len(found), 0
    texts = [" ".join(str(item) for item in sequence) for sequence in (reference, found)]
    return round(wer(texts[:1], texts[1:]) * len(reference)), len(reference)
