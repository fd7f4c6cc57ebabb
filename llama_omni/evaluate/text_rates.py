"""How many replies refuse, are empty, cut, failed, or hold what no voice can say."""

import re
from collections.abc import Mapping
from typing import Any

from llama_omni.evaluate.records import EvalItem, ReplyRow
from llama_omni.evaluate.scoring import Parts, PartsMeasure, Spec
from llama_omni.metrics import count_words

# How refusals begin, in lower case and without punctuation: the tiny model's own sentence, and what
# instruction-tuned models say.
_CANNOT = r"(cannot|cant|can not|do not|dont|am not able to|am unable to|wont|will not)"
_REFUSAL = re.compile(
    r"i am sorry i only know a few simple things"
    rf"|(i am |im )?sorry (but )?(i|we) {_CANNOT}\b"
    r"|i (cannot|cant|can not) (help|answer|do|give|provide|assist|create|write|say|tell|discuss)\b"
    r"|(i am|im) (unable|not able) to\b"
    r"|(as|i am just|im just|i am only|im only) an? (ai|artificial|language|large|voice)\b"
)
# What a voice stumbles over: markup, tables, code, brackets, links, other scripts than Latin.
_UNSPEAKABLE = re.compile(r"[*#_`|<>\[\]{}\\^~]|https?://|[^\x00-\u024f\u2010-\u203a\u20ac]")


def is_refusal(text: str) -> bool:
    """Tell whether a reply declines to answer, by how it begins."""
    plain = " ".join(re.sub(r"[^\w\s]", "", text.lower()).split())
    return _REFUSAL.match(plain) is not None


def is_unspeakable(text: str) -> bool:
    """Tell whether a text holds markup, links or letters that an English voice cannot say."""
    return _UNSPEAKABLE.search(text) is not None


class TextMeasure(PartsMeasure):
    """Rates over all replies, those that failed among them."""

    name = "text"
    needs_values = False
    specs = (
        Spec(name="failed_rate", unit="%", better="lower", scale=100.0),
        Spec(name="empty_rate", unit="%", better="lower", scale=100.0),
        Spec(name="silent_rate", unit="%", better="lower", scale=100.0),
        Spec(name="cut_rate", unit="%", better="lower", scale=100.0),
        Spec(name="refusal_rate", unit="%", scale=100.0),
        Spec(name="unspeakable_rate", unit="%", better="lower", scale=100.0),
        Spec(name="words_per_reply", unit="words"),
    )

    def applies(self, row: ReplyRow) -> bool:  # noqa: ARG002
        """Whether it says anything of a reply: of each, even where there is none."""
        return True

    def parts(self, row: ReplyRow, item: EvalItem, value: Mapping[str, Any]) -> Parts:  # noqa: ARG002
        """Return what a reply's text adds."""
        found = {"failed_rate": (float(row.error is not None), 1.0)}
        if row.error is not None:
            return found
        told = bool(row.text.strip())
        found["empty_rate"] = (float(not told), 1.0)
        if row.condition != "s2tif":
            found["silent_rate"] = (float(row.audio is None), 1.0)
        found["cut_rate"] = (float(row.finish_reason == "length"), 1.0)
        found["refusal_rate"] = (float(is_refusal(row.text)), 1.0)
        found["unspeakable_rate"] = (float(is_unspeakable(row.text)), 1.0)
        if told:
            found["words_per_reply"] = (float(count_words(row.text)), 1.0)
        return found
