"""The tiny model's held-out questions, shipped: made by runs/held_out.py."""

import io
import json
import zipfile
from pathlib import Path

from llama_omni import audio
from llama_omni.errors import InputError, MissingExtraError
from llama_omni.evaluate.records import EvalItem
from llama_omni.interfaces import Audio

FILE = Path(__file__).parents[2] / "assets" / "held_out.zip"
ITEMS, NOTES = "items.jsonl", "notes.json"


class ShippedSet:
    """Questions in voices that the training heard and in others, and some out of the domain.

    Args:
        file: the archive; None is the shipped one.

    Raises:
        InputError: it is missing or damaged.
    """

    name = "tiny, held out"

    def __init__(self, file: Path | None = None) -> None:
        self._file = FILE if file is None else file
        try:
            self._archive = zipfile.ZipFile(self._file)
            lines = self._archive.read(ITEMS).decode().splitlines()
            self.notes = tuple(json.loads(self._archive.read(NOTES)))
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise InputError(f"{self._file} must be the shipped test set, got: {error}") from error
        self.items = tuple(
            EvalItem(
                id=row["id"],
                instruction=row["instruction"],
                references=tuple(row["references"]),
                match="same",  # one right sentence each, or the sentence that declines
                category=row["category"],
            )
            for row in map(json.loads, lines)
        )

    def speech(self, item: EvalItem) -> Audio:
        """Return a question's sound at 16 kHz."""
        try:
            data = self._archive.read(f"{item.id}.opus")
        except (KeyError, OSError, zipfile.BadZipFile) as error:
            raise InputError(f"the sound of {item.id} is missing in {self._file}") from error
        return decode(data)


def decode(data: bytes) -> Audio:
    """Return the samples of a sound in Ogg Opus at 16 kHz.

    Raises:
        MissingExtraError: soundfile is not installed.
    """
    try:
        import soundfile
    except ImportError as error:
        raise MissingExtraError("soundfile", "evaluate", "the shipped test set") from error
    samples, rate = soundfile.read(io.BytesIO(data), dtype="float32")
    return audio.check(samples, sample_rate=rate)
