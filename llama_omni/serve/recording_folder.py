"""One recorded session on disk: `events.jsonl`, and a WAV file for each sound in it.

The folder is called `NAME.partial` until the session has ended and everything is on the disk. An
event's sound is replaced by its file, `first_sample` and `end_sample`.
"""

import json
import os
import time
import wave
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Literal

from llama_omni.audio import pcm16_encode
from llama_omni.serve.errors import ProtocolError
from llama_omni.serve.formats import AudioFormat, FormatName

Source = Literal["client", "server"]

PARTIAL = ".partial"
_LONGEST_S = 1e6  # whatever the session took, its recording takes


class SessionFolder:
    """Writes what went over one session's wire. Every method may raise OSError.

    Args:
        parent: where its folder is made, readable by the owner only.
        session_id: its name, with the time before it.
    """

    def __init__(self, parent: Path, session_id: str) -> None:
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H-%M-%SZ", time.gmtime(now))
        self.path = parent / f"{stamp}-{session_id}"
        self._partial = self.path.with_name(self.path.name + PARTIAL)
        self._partial.mkdir(mode=0o700)
        self._events = (self._partial / "events.jsonl").open("w", encoding="utf-8")
        self._sounds: dict[str, _SoundFile] = {}  # by what is in them
        self._formats: dict[str, AudioFormat] = {}  # of responses' sound
        self._num_items = 0
        self._line({"at_s": 0.0, "session": session_id, "began": now})

    def write(self, at_s: float, source: Source, frame: str, format_name: FormatName) -> None:
        """Write one event.

        Args:
            at_s: seconds since the session began.
            source: who sent it.
            frame: its JSON; what is none is only counted.
            format_name: of the client's sound at that moment.
        """
        entry: dict[str, Any] = {"at_s": round(at_s, 4), "from": source}
        try:
            event = json.loads(frame)
            if not isinstance(event, dict):
                raise ValueError("no object")
            self._keep_sound(event, source, AudioFormat(format_name))
            self._line({**entry, "event": event})
        except (ValueError, RecursionError):  # whatever a client sends
            self._line({**entry, "unreadable": len(frame)})

    def finish(self, at_s: float, code: int) -> None:
        """Put everything on the disk and give the folder its name."""
        self._line({"at_s": round(at_s, 4), "closed": code})
        for sound in self._sounds.values():
            sound.close()
        self._events.flush()
        os.fsync(self._events.fileno())
        self._events.close()
        self._partial.rename(self.path)

    def give_up(self) -> None:
        """Let everything go as it is; the folder stays partial."""
        for closing in (self._events.close, *(sound.give_up for sound in self._sounds.values())):
            with suppress(OSError):  # what could not be written before cannot be now
                closing()

    def _line(self, entry: dict[str, Any]) -> None:
        self._events.write(json.dumps(entry) + "\n")

    def _keep_sound(self, event: dict[str, Any], source: Source, given: AudioFormat) -> None:
        kind, response = event.get("type"), event.get("response_id")
        if source == "client" and kind == "input_audio_buffer.append":
            self._replace(event, "audio", f"input-{given.sample_rate}", given)
        elif source == "server" and kind == "response.created":
            made = event["response"]
            self._formats[made["id"]] = AudioFormat(made["audio"]["output"]["format"]["type"])
        elif source == "server" and kind == "response.output_audio.delta":
            made_in = self._formats.get(response or "", AudioFormat())
            self._replace(event, "delta", f"reply-{event['item_id']}", made_in)
        else:
            self._keep_items(event, source, given)

    def _keep_items(self, value: Any, source: Source, given: AudioFormat) -> None:
        """Replace sounds inside of items; what the server repeats is not kept."""
        if isinstance(value, list):
            for one in value:
                self._keep_items(one, source, given)
        elif isinstance(value, dict):
            if isinstance(value.get("audio"), str):
                if source == "client":
                    self._num_items += 1
                    self._replace(value, "audio", f"item-{self._num_items}", given)
                else:
                    value["audio"] = {"repeated": len(value["audio"])}
            for one in value.values():
                self._keep_items(one, source, given)

    def _replace(self, holder: dict[str, Any], key: str, name: str, given: AudioFormat) -> None:
        text = holder.get(key)
        try:
            samples = given.decode(str(text), param=key, max_s=_LONGEST_S)
        except ProtocolError:
            holder[key] = {"unreadable": len(str(text))}
            return
        if name not in self._sounds:
            self._sounds[name] = _SoundFile(self._partial / f"{name}.wav", given.sample_rate)
        holder[key] = self._sounds[name].append(pcm16_encode(samples))


class _SoundFile:
    """A WAV file that grows: 16 bit, mono. Its header is right once it is closed."""

    def __init__(self, path: Path, sample_rate: int) -> None:
        self._file: BinaryIO = path.open("wb")
        self._name, self._samples = path.name, 0
        self._writer = wave.open(self._file, "wb")
        self._writer.setnchannels(1)
        self._writer.setsampwidth(2)
        self._writer.setframerate(sample_rate)

    def append(self, data: bytes) -> dict[str, Any]:
        """Write samples; return where they are."""
        self._writer.writeframesraw(data)
        first, self._samples = self._samples, self._samples + len(data) // 2
        return {"file": self._name, "first_sample": first, "end_sample": self._samples}

    def close(self) -> None:
        """Write the header and put it on the disk."""
        self._writer.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def give_up(self) -> None:
        """Let it go as it is."""
        try:
            self._writer.close()
        finally:
            self._file.close()
