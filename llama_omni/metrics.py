"""Numbers about replies: words, how far speech lags behind text, error rates, intervals.

Pure functions, no torch, used by training and by evaluation alike.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np

from llama_omni.errors import ConfigError, InputError, MissingExtraError
from llama_omni.interfaces import AudioDelta, ReplyEvent, TextDelta

Value = TypeVar("Value")

# Han and kana are written without spaces: each character is a word. Any other word is a run of
# characters that are not space and hold a letter or a digit, so a lone dash is none.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(f"[{_UNSPACED}]|[^\\s{_UNSPACED}]*[^\\W_{_UNSPACED}][^\\s{_UNSPACED}]*")
_UNMARKED = re.compile(f"[{_UNSPACED}]|[^\\s{_UNSPACED}]+")


def count_words(text: str) -> int:
    """Count the words of a text; one that is not yet complete counts."""
    return len(_WORD.findall(text))


def spoken_words(text: str) -> list[str]:
    """Return the words of a text as a recogniser writes them: lower case, no punctuation.

    "Twenty-one o'clock!" is twenty, one, o'clock. Use it on both sides of a comparison.
    """
    plain = unicodedata.normalize("NFKC", text).lower()
    plain = plain.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    kept = "".join(
        mark if mark == "'" or unicodedata.category(mark)[0] in "LMN" else " " for mark in plain
    )
    return [word for found in _UNMARKED.findall(kept) if (word := found.strip("'"))]


def lagging_words(events: Iterable[ReplyEvent]) -> int | None:
    """Count the words that were already written when the sound of a reply began.

    A word counts from its first character on, and text counts if its event came before the first
    sound, whether or not that sound speaks it. Without sound there is no answer: None.

    Source:
        Table 2 of the first version of the paper: 1.82 words at a chunk of 10 units.
    """
    text = ""
    for event in events:
        if isinstance(event, TextDelta):
            text += event.text
        elif isinstance(event, AudioDelta):
            return count_words(text)
    return None


def wer(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Return the word error rate of a corpus: errors of all texts over words of all references.

    Case and punctuation count; a caller who does not want that normalises both sides first.
    """
    return _jiwer(references, hypotheses).wer(list(references), list(hypotheses))


def cer(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Return the character error rate of a corpus, spaces included; see `wer`."""
    return _jiwer(references, hypotheses).cer(list(references), list(hypotheses))


def _jiwer(references: Sequence[str], hypotheses: Sequence[str]) -> Any:
    """Check both sides and return the module that compares them."""
    if len(references) != len(hypotheses):
        raise InputError(
            f"hypotheses must be as many as references, {len(references)}, got {len(hypotheses)}"
        )
    if not any(reference.strip() for reference in references):
        raise InputError("references must hold at least one word, got none")
    try:
        import jiwer
    except ImportError as error:
        raise MissingExtraError("jiwer", "evaluate", "an error rate") from error
    return jiwer


def bootstrap_interval(
    values: Sequence[Value],
    statistic: Callable[[list[Value]], float],
    *,
    seed: int,
    confidence: float = 0.95,
    num_resamples: int = 1000,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a statistic.

    Args:
        values: One per independent item: a number, or a (reference, hypothesis) pair.
        statistic: From a list of values to a number.
        seed: The same seed gives the same interval.
        confidence: Share of the resampled statistics within the interval.
        num_resamples: Resamples with replacement, each of len(values).
    """
    if not len(values):
        raise InputError("values must hold at least one item, got none")
    if not 0.0 < confidence < 1.0:
        raise ConfigError(f"confidence must be between 0 and 1, got {confidence}")
    if num_resamples < 1:
        raise ConfigError(f"num_resamples must be at least 1, got {num_resamples}")
    rows = np.random.default_rng(seed).integers(0, len(values), (num_resamples, len(values)))
    found = [statistic([values[i] for i in row]) for row in rows]
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(found, [tail, 1.0 - tail])
    return float(low), float(high)
