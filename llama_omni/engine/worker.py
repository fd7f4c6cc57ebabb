"""The engine's own process: takes calls from a pipe, steps while there is work, reports.

Started by `remote.process` with the *spawn* method, so nothing of the parent is shared. It ends
when it is told to, when the pipe's other end is gone, or when the device is lost. It reports at
least every second, between two steps, so that its client can tell slow from hung.
"""

import logging
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from llama_omni.collector import here_to_stay
from llama_omni.engine.memory import Trimming
from llama_omni.errors import InputError, LlamaOmniError
from llama_omni.remote.messages import (
    Call,
    Happened,
    Ready,
    Report,
    Stop,
    failure_of,
)

if TYPE_CHECKING:  # the factory imports it, and torch with it
    from llama_omni.engine.batch import BatchEngine

logger = logging.getLogger(__name__)

BEAT_S = 1.0  # between reports, where nothing happens
CALLS = ("open", "prepare", "commit", "abandon", "cancel", "truncate", "add", "replace", "close")


def run(connection: Connection, factory: Callable[[], "BatchEngine"]) -> None:
    """Make an engine and serve it until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to end
    logging.basicConfig(level=logging.INFO)
    try:
        with here_to_stay():
            engine = factory()
        connection.send(Ready(engine.sample_rate))
        serve(engine, connection)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        logger.info("engine ends: its client is gone")
    except LlamaOmniError as error:
        connection.send(error)
        raise SystemExit(1) from error


def serve(engine: "BatchEngine", connection: Connection) -> None:
    """Answer calls and step, until told to stop.

    Raises:
        EOFError: the other end of the pipe is gone.
    """
    told = time.monotonic()
    memory = Trimming()
    while True:
        happened: list[Happened] = []
        while connection.poll(0 if engine.has_work or happened else BEAT_S):
            message = connection.recv()
            if isinstance(message, Stop):
                return
            happened += answer(engine, message)
            if message.method == "close":
                memory.freed()
        if engine.has_work:
            happened += engine.step()
        memory.now_and_then()
        if happened or time.monotonic() - told >= BEAT_S:
            connection.send(Report(tuple(happened), engine.numbers()))
            told = time.monotonic()


def answer(engine: "BatchEngine", call: Call) -> list[Happened]:
    """Do what a client asked for; what goes wrong is the end of the reply that it asked for.

    A call for a conversation or a reply that is gone does nothing: the client could not know yet.
    """
    if call.method not in CALLS:
        raise InputError(f"method must be one of {', '.join(CALLS)}, got {call.method!r}")
    named = dict(call.named)
    try:
        getattr(engine, call.method)(call.conversation, *call.arguments, **named)
    except Exception as error:
        if not isinstance(error, LlamaOmniError):
            logger.exception("call failed method=%s", call.method)
        if call.method == "prepare":
            return [Happened(call.conversation, named["generation"], failure_of(error))]
        logger.warning(
            "call refused method=%s conversation=%d: %s", call.method, call.conversation, error
        )
    return []
