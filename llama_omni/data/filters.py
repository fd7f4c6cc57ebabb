"""Which records a data set can use: what is refused before it is spoken, and after.

Each check returns the reason, or None for a record that stays.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llama_omni.data.items import Item
from llama_omni.data.recipe import BuildRecipe, Filters
from llama_omni.data.speech_text import unspeakable
from llama_omni.interfaces import Audio, Recognizer
from llama_omni.metrics import spoken_words, wer

_FASTEST = 40.0  # characters a second: no voice says more


def check_texts(item: Item, recipe: BuildRecipe) -> str | None:
    """Refuse what cannot be said, or would take too long, before time is spent on it."""
    record, filters = item.record, recipe.filters
    if item.question_sound is None:
        reason = _check_text("question", record.question, filters.max_question_s, recipe.language)
        if reason:
            return reason
    if record.answer is None:
        return "no answer in the source"
    if not record.answer.strip():
        return "answer must hold words, got an empty text"
    spoken = recipe.voices.answer is not None and item.units is None
    if spoken and item.answer_sound is None:
        return _check_text("answer", record.answer, filters.max_answer_s, recipe.language)
    return None


def _check_text(name: str, text: str, max_s: float, language: str) -> str | None:
    if len(text) > max_s * _FASTEST:
        return (
            f"{name} must take at most {max_s:g} s, got {len(text):,} characters, which take at "
            f"least {len(text) / _FASTEST:.0f} s"
        )
    reason = unspeakable(text, language)
    return f"{name} must hold only what a voice can say, got {reason}" if reason else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Spoken:
    """What is judged of a spoken record."""

    question: str
    question_s: float
    answer: str
    answer_s: float | None
    units: Sequence[int] | None
    answer_tokens: int | None  # without the end; None: not counted


def check_spoken(spoken: Spoken, filters: Filters) -> str | None:
    """Refuse a record by its durations, and by units that its tokens leave no room for."""
    reason = _check_seconds(
        "question", spoken.question_s, filters.min_question_s, filters.max_question_s
    )
    if reason is None and spoken.answer_s is not None:
        reason = _check_seconds(
            "answer", spoken.answer_s, filters.min_answer_s, filters.max_answer_s
        )
    if reason is None and spoken.units is not None and spoken.answer_tokens is not None:
        # The end is a token too, and its frames can carry units; equal neighbours need a blank.
        room = filters.upsample_factor * (spoken.answer_tokens + 1)
        repeats = sum(a == b for a, b in zip(spoken.units, spoken.units[1:], strict=False))
        if len(spoken.units) + repeats > room:
            return (
                f"units must be at most {room}, {filters.upsample_factor} for each of "
                f"{spoken.answer_tokens + 1} tokens, got {len(spoken.units) + repeats}"
            )
    return reason


def _check_seconds(name: str, seconds: float, low: float, high: float) -> str | None:
    if low <= seconds <= high:
        return None
    return f"{name} must take {low:g} to {high:g} s, got {seconds:.2f} s"


def check_heard(
    recognizer: Recognizer, sounds: Sequence[tuple[str, str, Audio]], max_wer: float
) -> str | None:
    """Refuse speech that a recogniser understands otherwise.

    Args:
        recognizer: Writes lower case, without punctuation.
        sounds: Each a name ("question"), its text and its sound.
        max_wer: Word error rate that is still accepted.
    """
    for name, text, sound in sounds:
        heard, said = spoken_words(recognizer.transcribe(sound)), spoken_words(text)
        if said and (rate := wer([" ".join(said)], [" ".join(heard)])) > max_wer:
            found = " ".join(heard)[:80]
            return f"{name} must have a word error rate to {max_wer:g}, got {rate:.2f}: {found!r}"
    return None


def duplicate_key(item: Item) -> Any:
    """Return what is equal for records that ask the same, or None where that is not known."""
    record = item.record
    asked = [turn.question for turn in record.history] + [record.question]
    return "\n".join(" ".join(spoken_words(text)) for text in asked) if record.question else None
