"""Whether an answer is right, where a set knows the answer."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llama_omni.evaluate.asr_error import normalise
from llama_omni.evaluate.intervals import ratio
from llama_omni.evaluate.records import UNASKED, EvalItem, ReplyRow
from llama_omni.evaluate.scoring import Known, Parts, PartsMeasure, Spec
from llama_omni.evaluate.transcripts import Transcripts
from llama_omni.metrics import spoken_words

_ARTICLES = re.compile(r"\b(a|an|the)\b")


def is_right(said: str, item: EvalItem) -> bool:
    """Tell whether a text is the item's answer.

    Where it must be the same, it has the words of one of the references and no others. Where it
    must contain one, that stands in it as whole words, after Whisper's normaliser (numbers are
    digits, no punctuation or case) and without articles, as is usual for open questions; that
    passes "not seven, but eight" for "seven". A reference without words is never held.
    """
    if item.match == "same":
        words = spoken_words(said)
        return bool(words) and words in [spoken_words(one) for one in item.references]
    text = f" {_plain(said)} "
    plain = (_plain(reference) for reference in item.references)
    return any(words and f" {words} " in text for words in plain)


def by_category(rows: Sequence[Known], part: str) -> dict[str, tuple[float, int]]:
    """Return by category the share of right answers and how many there are.

    Args:
        rows: replies of one condition with this measure's values.
        part: "text" or "speech".
    """
    found: dict[str, list[tuple[float, float]]] = {}
    for _, item, value in rows:
        if value.get(part) is not None:
            found.setdefault(item.category, []).append((float(value[part]), 1.0))
    return {name: (ratio(found[name]) or 0.0, len(found[name])) for name in sorted(found)}


class AccuracyMeasure(PartsMeasure):
    """Right answers, written and spoken. A reply that failed is a wrong one.

    Args:
        transcripts: what is heard in the replies; None: speech is not judged.
    """

    name = "accuracy"
    specs = (
        Spec(name="accuracy_text", unit="%", better="higher", scale=100.0),
        Spec(name="accuracy_speech", unit="%", better="higher", scale=100.0),
    )

    def __init__(self, transcripts: Transcripts | None) -> None:
        self._transcripts = transcripts

    @property
    def settings(self) -> Mapping[str, Any]:
        """The recogniser, by its name."""
        return {"recognizer": None if self._transcripts is None else self._transcripts.name}

    def applies(self, row: ReplyRow) -> bool:
        """Whether the question was put: a system that fails has no right answer."""
        return row.finish_reason != UNASKED

    def value(self, row: ReplyRow, item: EvalItem, folder: Path) -> dict[str, Any]:
        """Compare one reply with the item's references."""
        if not item.references:
            return {}
        found: dict[str, Any] = {"text": row.error is None and is_right(row.text, item)}
        if self._transcripts is not None and row.condition != "s2tif":
            found["speech"] = is_right(self._transcripts.of(row, folder), item)
        return found

    def parts(self, row: ReplyRow, item: EvalItem, value: Mapping[str, Any]) -> Parts:  # noqa: ARG002
        """Return 1 for a right answer, 0 for a wrong one."""
        return {
            f"accuracy_{part}": (float(value[part]), 1.0)
            for part in ("text", "speech")
            if value.get(part) is not None
        }


def _plain(text: str) -> str:
    return " ".join(_ARTICLES.sub(" ", normalise(text)).split())
