"""Sessions recorded on disk, only where `--record DIR` asks for it.

What went over the wire is handed to one thread, so that a slow disk holds up no conversation. A
session that cannot be written, or not fast enough, is given up and stays marked as partial; nobody
who speaks notices.
"""

import logging
import queue
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from starlette.types import Message
from starlette.websockets import WebSocket

from llama_omni.errors import OutputError
from llama_omni.serve.formats import FormatName
from llama_omni.serve.recording_folder import SessionFolder, Source

logger = logging.getLogger(__name__)

_MAX_BYTES = 64 * 2**20  # that wait to be written, of all sessions
_LAST_S = 10.0  # for the rest to be written when the server ends

Job = Callable[[], None]


class Recorder:
    """Writes the sessions of a server, in a thread of its own.

    Args:
        folder: where each session gets a folder; made where there is none.
        count: told "whole" or "partial" for each session.

    Raises:
        OutputError: nothing can be written there.
    """

    def __init__(self, folder: Path, count: Callable[[str], None]) -> None:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as probe:
                probe.write(bytes(4096))
        except OSError as error:
            raise OutputError(
                f"--record must be a folder that can be written, got {folder}: "
                f"{error.strerror or error}"
            ) from error
        self.folder, self.count = folder, count
        self._jobs: queue.SimpleQueue[tuple[Job, int] | None] = queue.SimpleQueue()
        self._bytes, self._lock = 0, threading.Lock()
        self._thread = threading.Thread(target=self._run, name="recording", daemon=True)
        self._thread.start()

    def begin(self, session_id: str) -> "Recording":
        """Record one session."""
        return Recording(self, session_id)

    def put(self, job: Job, num_bytes: int) -> bool:
        """Let something be done in the thread; False where too much waits already."""
        with self._lock:
            if self._bytes + num_bytes > _MAX_BYTES:
                return False
            self._bytes += num_bytes
        self._jobs.put((job, num_bytes))
        return True

    def close(self) -> None:
        """Wait until all is written, but not for ever."""
        self._jobs.put(None)
        self._thread.join(_LAST_S)
        if self._thread.is_alive():
            logger.warning("recording left unfinished: the disk took over %.0f s", _LAST_S)

    def _run(self) -> None:
        while (entry := self._jobs.get()) is not None:
            job, num_bytes = entry
            job()
            with self._lock:
                self._bytes -= num_bytes


class Recording:
    """One session's recording. Its methods are called on the event loop and never wait or raise."""

    def __init__(self, recorder: Recorder, session_id: str) -> None:
        self._recorder, self._id = recorder, session_id
        self._began = time.monotonic()
        self._folder: SessionFolder | None = None  # the thread's alone
        self._lost = False  # something of it is missing
        recorder.put(lambda: self._try(self._open), 0)

    def note(self, source: Source, frame: str, format_name: FormatName) -> None:
        """Take an event that came or went.

        Args:
            source: who sent it.
            frame: its JSON.
            format_name: of the client's sound at this moment.
        """
        at_s = self._at_s()
        if self._lost:
            return

        def write() -> None:
            if self._folder is not None:
                self._folder.write(at_s, source, frame, format_name)

        if not self._recorder.put(lambda: self._try(write), len(frame)):
            logger.warning("recording given up session=%s: the disk is too slow", self._id)
            self._lost = True

    def end(self, code: int) -> None:
        """Take that the session has ended, with a WebSocket's code."""
        at_s = self._at_s()
        self._recorder.put(lambda: self._finish(at_s, code), 0)

    def _at_s(self) -> float:
        return time.monotonic() - self._began

    def _open(self) -> None:
        self._folder = SessionFolder(self._recorder.folder, self._id)

    def _finish(self, at_s: float, code: int) -> None:
        folder = self._folder
        if folder is not None and not self._lost:
            self._try(lambda: folder.finish(at_s, code))
        if folder is not None and self._lost:
            folder.give_up()
        self._recorder.count("partial" if self._lost else "whole")

    def _try(self, work: Job) -> None:
        """Do it in the thread; what fails ends the recording and nothing else."""
        if self._lost:
            return
        try:
            work()
        except OSError as error:
            reason = error.strerror or str(error)
            logger.warning("recording given up session=%s: %s", self._id, reason)
            self._lost = True
        except Exception:
            logger.exception("recording given up session=%s", self._id)
            self._lost = True


class RecordedSocket(WebSocket):
    """A WebSocket of which everything is recorded.

    Args:
        socket: the client's.
        recording: told of each event.
        format_name: tells the format of the client's sound.
    """

    def __init__(
        self, socket: WebSocket, recording: Recording, format_name: Callable[[], FormatName]
    ) -> None:
        super().__init__(socket.scope, socket.receive, socket.send)
        self._recording, self._format_name = recording, format_name

    async def receive(self) -> Message:
        """Receive a message."""
        message = await super().receive()
        if message["type"] == "websocket.receive":
            data = message.get("text") or (message.get("bytes") or b"").decode("utf-8", "replace")
            self._recording.note("client", data, self._format_name())
        return message

    async def send(self, message: Message) -> None:
        """Send a message."""
        await super().send(message)
        if message["type"] == "websocket.send":
            self._recording.note("server", message.get("text") or "", self._format_name())
