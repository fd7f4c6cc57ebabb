"""A recogniser in a process of its own: its work takes nothing from the event loop's process.

One sound after the other: recognisers hold one state. What needs torch may be run so by a server
that must not load it.
"""

import logging
import multiprocessing
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from llama_omni.errors import EngineError, LlamaOmniError
from llama_omni.interfaces import Audio, Recognizer

logger = logging.getLogger(__name__)

_LOST = (EOFError, OSError, ValueError)


class RemoteRecognizer:
    """A `Recognizer` whose work another process does; started again where that has ended.

    Args:
        factory: picklable; makes the recogniser over there (`remote.factory.Factory`).
        load_s: seconds that it may take to be made.
        timeout_s: seconds that one sound may take.
    """

    def __init__(
        self,
        factory: Callable[[], Recognizer],
        *,
        load_s: float = 300.0,
        timeout_s: float = 120.0,
    ) -> None:
        self._factory, self._load_s, self._timeout_s = factory, load_s, timeout_s
        self._lock = threading.Lock()
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._closed = False

    def start(self) -> None:
        """Make it now; else the first sound does.

        Raises:
            LlamaOmniError: it cannot be made.
        """
        with self._lock:
            self._ready_pipe()

    def transcribe(self, audio: Audio) -> str:
        """Return the words of 16 kHz sound. Waits; for a thread, not for an event loop.

        Raises:
            LlamaOmniError: the recogniser's own error, or its process has ended or hangs.
        """
        with self._lock:
            pipe = self._ready_pipe()
            try:
                pipe.send(audio)
                answer = self._answer(pipe, self._timeout_s)
            except _LOST as error:
                self._kill()
                raise EngineError("the recogniser has ended; the next sound starts it") from error
        if isinstance(answer, LlamaOmniError):
            raise answer
        return str(answer)

    def close(self) -> None:
        """End the process, at once; who waits for a sound's words gets an error."""
        self._closed = True
        self._kill()

    def _ready_pipe(self) -> Connection:
        if self._closed:
            raise EngineError("the recogniser must be open, got a closed one")
        if self._pipe is not None:
            return self._pipe
        context = multiprocessing.get_context("spawn")
        pipe, other = context.Pipe()
        self._process = context.Process(
            target=serve, args=(other, self._factory), name="llama-omni-recognizer", daemon=True
        )
        self._process.start()
        other.close()  # so that its end is noticed here
        try:
            answer = self._answer(pipe, self._load_s)
        except _LOST as error:
            self._kill()
            raise EngineError("the recogniser ended while it was being made") from error
        if isinstance(answer, LlamaOmniError):
            self._kill()
            raise answer
        self._pipe = pipe
        return pipe

    def _answer(self, pipe: Connection, seconds: float) -> object:
        if not pipe.poll(seconds):
            logger.error("recogniser killed: no answer for %.0f s", seconds)
            raise EOFError
        return pipe.recv()

    def _kill(self) -> None:
        process, self._process, self._pipe = self._process, None, None
        if process is not None:
            process.kill()
            process.join()


def serve(pipe: Connection, factory: Callable[[], Recognizer]) -> None:
    """Make a recogniser and answer one sound after the other, until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to end
    with suppress(*_LOST):
        try:
            recognizer = factory()
        except LlamaOmniError as error:
            pipe.send(error)
            return
        pipe.send(True)
        while True:
            audio: Audio = pipe.recv()
            try:
                answer: str | LlamaOmniError = recognizer.transcribe(audio)
            except LlamaOmniError as error:
                answer = error
            except Exception:
                logger.exception("a sound could not be recognised")
                answer = EngineError("the recogniser failed")
            pipe.send(answer)
