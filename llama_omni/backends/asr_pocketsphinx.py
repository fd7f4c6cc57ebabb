"""PocketSphinx 5: a small, old, deterministic recogniser of American English, on a CPU.

Its acoustic and generic language model come in its wheel. With a language model of a domain it
hears only that domain's words; those that its dictionary lacks get a guessed pronunciation.
"""

import logging
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from llama_omni import audio as sound
from llama_omni.backends.pronunciation import guess_pronunciation
from llama_omni.errors import InputError, MissingExtraError
from llama_omni.interfaces import Audio
from llama_omni.metrics import spoken_words

SILENT = 1e-3  # peak of full scale: below it nobody speaks
LONGEST_S = 600.0

logger = logging.getLogger(__name__)


class PocketsphinxRecognizer:
    """Write down English speech; the same sound gives the same words, whatever came before.

    Args:
        language_model: an ARPA file of a domain; None is the generic model of the package.
    """

    def __init__(self, language_model: str | PathLike[str] | None = None) -> None:
        try:
            from pocketsphinx import Decoder
        except ImportError as error:
            raise MissingExtraError("pocketsphinx", "evaluate", "a recogniser") from error
        self.guessed: dict[str, str] = {}  # words that the dictionary lacks, as they are said
        self.unsayable: tuple[str, ...] = ()  # those of which no letter has a sound
        if language_model is None:
            self._decoder: Any = Decoder(loglevel="FATAL")
        else:
            self._decoder = Decoder(lm=None, loglevel="FATAL")
            self._use(Path(language_model))

    def transcribe(self, audio: Audio) -> str:
        """Return the words of 16 kHz sound, lower case, without punctuation; silence has none.

        Raises:
            AudioError: the sound cannot be used.
        """
        samples = sound.check(audio, min_s=0.0, max_s=LONGEST_S)
        if len(samples) < sound.MIN_S * sound.SAMPLE_RATE or np.abs(samples).max() < SILENT:
            return ""
        # The logarithm of exact zeros is no number: fill them with the least of noises.
        noise = np.random.default_rng(0).integers(-1, 2, len(samples))
        pcm = np.clip(sound.pcm16(samples) + noise, -32768, 32767).astype(np.int16)
        decoder = self._decoder
        decoder.reinit_feat()  # forget the level and the noise of earlier sounds
        decoder.start_utt()
        decoder.process_raw(pcm.tobytes(), full_utt=True)
        decoder.end_utt()
        found = decoder.hyp()
        return " ".join(spoken_words(found.hypstr)) if found else ""

    def _use(self, file: Path) -> None:
        missing = [word for word in _vocabulary(file) if self._decoder.lookup_word(word) is None]
        unsayable = []
        for word in missing:
            phones = guess_pronunciation(word)
            if phones:
                self._decoder.add_word(word, phones, update=False)
                self.guessed[word] = phones
            else:
                unsayable.append(word)
        self.unsayable = tuple(unsayable)
        if missing:
            logger.warning("pronunciations guessed or absent words=%s", " ".join(missing))
        try:
            self._decoder.add_lm_file("domain", str(file))
            self._decoder.activate_search("domain")
        except RuntimeError as error:
            raise InputError(f"{file} must be an ARPA language model, got: {error}") from error


def _vocabulary(file: Path) -> list[str]:
    """Return the words of an ARPA file, in its order."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "bytes that are no UTF-8"
        raise InputError(f"{file} must be an ARPA language model, got {reason}") from error
    words, inside = [], False
    for line in lines:
        if line.startswith("\\"):
            inside = line.strip() == "\\1-grams:"
        elif inside and len(fields := line.split()) >= 2:
            words.append(fields[1])
    if not words:
        raise InputError(f"{file} must be an ARPA language model, got no section of 1-grams")
    return [word for word in words if not word.startswith("<")]
