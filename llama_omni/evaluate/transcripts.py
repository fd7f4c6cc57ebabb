"""What a recogniser hears in the replies' sounds, kept so that no sound is recognised twice."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from llama_omni import audio
from llama_omni.evaluate.records import ReplyRow
from llama_omni.interfaces import Recognizer

FILE = "transcripts.jsonl"
_LONGEST_S = 600.0  # of a reply


class Transcripts:
    """Transcripts of a results folder's sounds, by one recogniser.

    Args:
        name: the recogniser's, such as "whisper:openai/whisper-large-v3".
        open_recognizer: makes it, when the first sound must be heard.
    """

    def __init__(self, name: str, open_recognizer: Callable[[], Recognizer]) -> None:
        self.name, self._open = name, open_recognizer
        self._recognizer: Recognizer | None = None
        self._known: dict[Path, dict[str, str]] = {}  # by folder, then by the sound's hash

    def of(self, row: ReplyRow, folder: Path) -> str:
        """Return the words heard in a reply; "" where it has no sound.

        Raises:
            AudioError: the sound's file is missing or cannot be read.
        """
        if row.audio is None:
            return ""
        samples = audio.load(folder / row.audio, min_s=0.0, max_s=_LONGEST_S)
        key = hashlib.sha256(samples.tobytes()).hexdigest()[:24]
        known = self._known.setdefault(folder, self._read(folder))
        if key not in known:
            if self._recognizer is None:
                self._recognizer = self._open()
            known[key] = self._recognizer.transcribe(samples)
            line = json.dumps({"recognizer": self.name, "sound": key, "heard": known[key]})
            with (folder / FILE).open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        return known[key]

    def _read(self, folder: Path) -> dict[str, str]:
        file, found = folder / FILE, dict[str, str]()
        if not file.is_file():
            return found
        text = file.read_text(encoding="utf-8")
        if text and not text.endswith("\n"):  # cut off in the writing
            text = text[: text.rfind("\n") + 1]
            file.write_text(text, encoding="utf-8")
        for line in text.splitlines():
            said = json.loads(line)
            if said["recognizer"] == self.name:
                found[said["sound"]] = said["heard"]
        return found
