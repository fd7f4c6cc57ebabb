"""ASR-WER and ASR-CER: does the speech say what the text says?

The reply's text is the reference, what a recogniser hears in its sound the hypothesis. The
literature reports both after Whisper's English normaliser and before it; so do we.
"""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llama_omni import audio
from llama_omni.errors import MissingExtraError
from llama_omni.evaluate.records import EvalItem, ReplyRow
from llama_omni.evaluate.scoring import Parts, PartsMeasure, Spec
from llama_omni.evaluate.transcripts import Transcripts
from llama_omni.interfaces import Recognizer, Synthesizer


def count_errors(reference: str, hypothesis: str) -> dict[str, int]:
    """Count a text's errors: substitutions, deletions and insertions, of words and characters.

    A reference without words has as many errors as the hypothesis has words: all are insertions.
    """
    jiwer = _jiwer()
    if not reference.split():
        words, letters = len(hypothesis.split()), len(hypothesis.strip())
        return {"word_errors": words, "words": 0, "char_errors": letters, "chars": 0}
    by_word = jiwer.process_words(reference, hypothesis)
    by_char = jiwer.process_characters(reference, hypothesis)
    return {
        "word_errors": by_word.substitutions + by_word.deletions + by_word.insertions,
        "words": by_word.hits + by_word.substitutions + by_word.deletions,
        "char_errors": by_char.substitutions + by_char.deletions + by_char.insertions,
        "chars": by_char.hits + by_char.substitutions + by_char.deletions,
    }


def normalise(text: str) -> str:
    """Return a text after Whisper's English normaliser: numbers as digits, no punctuation."""
    return _normaliser()(text)


def compare(text: str, heard: str) -> dict[str, Any]:
    """Return what is heard and the errors, normalised and raw (`raw_word_errors` and so on)."""
    found: dict[str, Any] = {"heard": heard}
    found |= count_errors(normalise(text), normalise(heard))
    raw = count_errors(" ".join(text.split()), " ".join(heard.split()))
    return found | {f"raw_{name}": number for name, number in raw.items()}


def error_parts(value: Mapping[str, Any], suffix: str = "") -> Parts:
    """Return the parts of the error rates that `compare` counted."""
    found = {}
    for name, top, below in (
        ("asr_wer", "word_errors", "words"),
        ("asr_cer", "char_errors", "chars"),
        ("asr_wer_raw", "raw_word_errors", "raw_words"),
        ("asr_cer_raw", "raw_char_errors", "raw_chars"),
    ):
        found[name + suffix] = (float(value[top]), float(value[below]))
    found["heard_as_written" + suffix] = (float(value["word_errors"] == 0), 1.0)
    return found


def _specs(suffix: str = "") -> tuple[Spec, ...]:
    names = ("asr_wer", "asr_cer", "asr_wer_raw", "asr_cer_raw")
    rates = [Spec(name=name + suffix, unit="%", better="lower", scale=100.0) for name in names]
    heard = Spec(name="heard_as_written" + suffix, unit="%", better="higher", scale=100.0)
    return (*rates, heard)


class AsrMeasure(PartsMeasure):
    """The error rates of the replies' speech against their text.

    Args:
        transcripts: of the sounds; None: no recogniser was named.
    """

    name = "asr"
    specs = _specs()

    def __init__(self, transcripts: Transcripts | None) -> None:
        self._transcripts = transcripts

    @property
    def settings(self) -> Mapping[str, Any]:
        """The recogniser, by its name."""
        name = None if self._transcripts is None else self._transcripts.name
        return {"recognizer": name, "normaliser": "whisper english"}

    @property
    def missing(self) -> str | None:
        """Which recogniser or package is not there."""
        if self._transcripts is None:
            return (
                "no recogniser was named: give --asr whisper:openai/whisper-large-v3 (a folder or "
                "a hub id) or --asr pocketsphinx"
            )
        return _missing_packages()

    def applies(self, row: ReplyRow) -> bool:
        """Whether a reply should have been heard; one without sound lacks all its words."""
        return row.error is None and row.condition != "s2tif"

    def value(self, row: ReplyRow, item: EvalItem, folder: Path) -> dict[str, Any]:  # noqa: ARG002
        """Hear one reply and count."""
        assert self._transcripts is not None, "a measure in which something is missing is not asked"
        return compare(row.text, self._transcripts.of(row, folder))

    def parts(self, row: ReplyRow, item: EvalItem, value: Mapping[str, Any]) -> Parts:  # noqa: ARG002
        """Return the counts."""
        return error_parts(value)


class AsrControlMeasure(PartsMeasure):
    """The recogniser's own errors: the same texts, said clearly by a classic voice.

    Args:
        recognizer: its name, and what makes it; None: none was named.
        voice: the voice, and what opens its synthesizer; None: none can be had here.
    """

    name = "asr_control"
    specs = _specs("_control")

    def __init__(
        self,
        recognizer: tuple[str, Callable[[], Recognizer]] | None,
        voice: tuple[str, Callable[[], Synthesizer]] | None,
    ) -> None:
        self._recognizer, self._voice = recognizer, voice
        self._opened: tuple[Recognizer, Synthesizer] | None = None
        self._heard: dict[str, str] = {}  # by text: chunk sizes change none of it

    @property
    def settings(self) -> Mapping[str, Any]:
        """The recogniser and the voice, by their names."""
        return {
            "recognizer": None if self._recognizer is None else self._recognizer[0],
            "voice": None if self._voice is None else self._voice[0],
        }

    @property
    def missing(self) -> str | None:
        """Which of the two is not there."""
        if self._recognizer is None:
            return "no recogniser was named: give --asr"
        if self._voice is None:
            return "no voice was named: give --control-voice flite:rms, and apt install flite"
        return _missing_packages()

    def applies(self, row: ReplyRow) -> bool:
        """Whether a reply has a text that could have been said better."""
        return row.error is None and row.audio is not None and bool(row.text.strip())

    def value(self, row: ReplyRow, item: EvalItem, folder: Path) -> dict[str, Any]:  # noqa: ARG002
        """Say one reply's text in the other voice, hear it, and count."""
        assert self._recognizer is not None, "something is missing"
        assert self._voice is not None, "something is missing"
        if self._opened is None:
            self._opened = self._recognizer[1](), self._voice[1]()
        recognizer, synthesizer = self._opened
        if row.text not in self._heard:
            said = audio.check(synthesizer.say(row.text, voice=self._voice[0]), max_s=float("inf"))
            self._heard[row.text] = recognizer.transcribe(said)
        return compare(row.text, self._heard[row.text])

    def parts(self, row: ReplyRow, item: EvalItem, value: Mapping[str, Any]) -> Parts:  # noqa: ARG002
        """Return the counts."""
        return error_parts(value, "_control")


def _jiwer() -> Any:
    try:
        import jiwer
    except ImportError as error:
        raise MissingExtraError("jiwer", "evaluate", "an error rate") from error
    return jiwer


_KEPT: list[Callable[[str], str]] = []


def _normaliser() -> Callable[[str], str]:
    if not _KEPT:
        try:
            with warnings.catch_warnings():  # its strings hold escapes that Python frowns at
                warnings.simplefilter("ignore")
                from whisper_normalizer.english import EnglishTextNormalizer
        except ImportError as error:
            raise MissingExtraError("whisper_normalizer", "evaluate", "an error rate") from error
        _KEPT.append(EnglishTextNormalizer())
    return _KEPT[0]


def _missing_packages() -> str | None:
    try:
        _jiwer()
        _normaliser()
    except MissingExtraError as error:
        return str(error)
    return None
