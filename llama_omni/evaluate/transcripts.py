"""What a recogniser hears in the replies' sounds, kept so that no sound is recognised twice."""

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

from llama_omni import audio
from llama_omni.evaluate.records import ReplyRow
from llama_omni.evaluate.results import add_line, read_lines
from llama_omni.interfaces import Recognizer

FILE = "transcripts.jsonl"
_LONGEST_S = 600.0  # of a reply


class Transcripts:
    """Transcripts of a results folder's sounds, by one recogniser; for any number of threads.

    Args:
        name: the recogniser's, such as "whisper:openai/whisper-large-v3".
        open_recognizer: makes it, when the first sound must be heard.
    """

    def __init__(self, name: str, open_recognizer: Callable[[], Recognizer]) -> None:
        self.name, self._open = name, open_recognizer
        self._recognizer: Recognizer | None = None
        self._known: dict[Path, dict[str, str]] = {}  # by folder, then by the sound's hash
        self._lock = threading.Lock()

    @property
    def recognizer(self) -> Recognizer:
        """The recogniser, opened once for all who listen with it."""
        if self._recognizer is None:
            self._recognizer = self._open()
        return self._recognizer

    def of(self, row: ReplyRow, folder: Path) -> str:
        """Return the words heard in a reply; "" where it has no sound.

        Raises:
            AudioError: the sound's file is missing or cannot be read.
            OutputError: the transcript cannot be written.
        """
        if row.audio is None:
            return ""
        samples = audio.load(folder / row.audio, min_s=0.0, max_s=_LONGEST_S)
        key = hashlib.sha256(samples.tobytes()).hexdigest()[:24]
        with self._lock:
            if folder not in self._known:
                self._known[folder] = self._read(folder)
            known = self._known[folder]
            if key not in known:
                known[key] = self.recognizer.transcribe(samples)
                line = {"recognizer": self.name, "sound": key, "heard": known[key]}
                add_line(folder / FILE, line)
            return known[key]

    def _read(self, folder: Path) -> dict[str, str]:
        return {
            line["sound"]: line["heard"]
            for line in read_lines(folder / FILE, mend=True)
            if line.get("recognizer") == self.name
        }
