"""Bigram and trigram language models for a recogniser, written as an ARPA file.

Witten-Bell: with c occurrences of a context and t distinct words after it, a word after it has
(c(word) + t * p_shorter(word)) / (c + t). Written as back-off this needs no second pass: what was
seen holds that value, and t / (c + t) is the context's back-off weight, so that every context
sums to one. Below the unigrams lies the uniform distribution over the words.
"""

import logging
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path

from llama_omni.errors import ConfigError, InputError
from llama_omni.files import write_text
from llama_omni.metrics import spoken_words

START, END = "<s>", "</s>"
NEVER = -99.0  # log10 of a probability that is none, as ARPA files write it

Gram = tuple[str, ...]

logger = logging.getLogger(__name__)


class NgramModel:
    """Probabilities of words after words, from sentences.

    Args:
        sentences: texts as people write them; case and punctuation are dropped.
        order: 2 or 3, the words of the longest sequence that is counted.
    """

    def __init__(self, sentences: Iterable[str], *, order: int = 2) -> None:
        if order not in (2, 3):
            raise ConfigError(f"order must be 2 or 3, got {order}")
        self.order = order
        self._counts: dict[Gram, Counter[str]] = defaultdict(Counter)  # by context, then word
        for words in map(spoken_words, sentences):
            if words:
                self._count([START, *words, END])
        if not self._counts:
            raise InputError("sentences must hold at least one word, got none")
        self.words = tuple(sorted(self._counts[()]))  # the end of a sentence is one

    def _count(self, words: list[str]) -> None:
        for at in range(1, len(words)):
            for length in range(min(self.order, at + 1)):
                self._counts[tuple(words[at - length : at])][words[at]] += 1

    def probability(self, word: str, context: Sequence[str] = ()) -> float:
        """Return how probable a word is after others; the last `order` - 1 of them count.

        A word that no sentence held has no probability.
        """
        if word not in self._counts[()]:
            return 0.0
        known = tuple(context)[-(self.order - 1) :] if context else ()
        if known not in self._counts:
            return self.probability(word, known[1:])
        followers = self._counts[known]
        shorter = self.probability(word, known[1:]) if known else 1.0 / len(self.words)
        return (followers[word] + len(followers) * shorter) / self._mass(known)

    def back_off(self, context: Gram) -> float:
        """Return the weight of the shorter context's probabilities after a context."""
        followers = self._counts.get(context)
        return len(followers) / self._mass(context) if followers else 1.0

    def _mass(self, context: Gram) -> int:
        followers = self._counts[context]
        return followers.total() + len(followers)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the model as an ARPA file.

        Raises:
            OutputError: the place cannot be written to.
        """
        sections = [self._lines(length) for length in range(1, self.order + 1)]
        lines = ["\\data\\"]
        lines += [f"ngram {n}={len(section)}" for n, section in enumerate(sections, start=1)]
        for n, section in enumerate(sections, start=1):
            lines += ["", f"\\{n}-grams:", *section]
        target = Path(path)
        write_text(target, "\n".join([*lines, "", "\\end\\", ""]))
        logger.info("language model saved words=%d path=%s", len(self.words), target)

    def _lines(self, length: int) -> list[str]:
        grams = sorted(
            (*context, word)
            for context, followers in self._counts.items()
            if len(context) == length - 1
            for word in followers
        )
        lines = [self._line(gram, self.probability(gram[-1], gram[:-1])) for gram in grams]
        return [self._line((START,), 0.0), *lines] if length == 1 else lines

    def _line(self, gram: Gram, probability: float) -> str:
        shown = f"{math.log10(probability) if probability else NEVER:.6f}\t{' '.join(gram)}"
        if len(gram) == self.order:
            return shown
        return f"{shown}\t{math.log10(self.back_off(gram)):.6f}"
