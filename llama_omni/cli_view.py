"""What the command line shows: a reply in words, JSON or sound, and what takes long meanwhile."""

import importlib
import json
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from llama_omni.errors import MissingExtraError, OutputError
from llama_omni.interfaces import Reply


def summary(reply: Reply, output: Path | None) -> str:
    """Say in two or three lines how fast the reply was, how much there is of it, and where."""
    lag, speed = reply.lagging_words, reply.real_time_factor
    facts = [
        f"time to first audio {_seconds(reply.timings.first_audio_s)}",
        f"real-time factor {'none' if speed is None else f'{speed:.2f}'}",
        f"lagging words {'none' if lag is None else lag}",
    ]
    amounts = [
        f"{len(reply.token_ids)} tokens",
        f"{len(reply.units)} units",
        f"{reply.duration_s:.2f} s of sound at {reply.sample_rate} Hz",
    ]
    if reply.finish_reason == "length":
        amounts.append("cut at --max-new-tokens")
    lines = [", ".join(facts), ", ".join(amounts)]
    if output is not None:
        silent = not len(reply.audio)
        lines.append("no sound: the model said no units" if silent else f"sound in {output}")
    return "\n".join(lines)


def _seconds(value: float | None) -> str:
    if value is None:
        return "none"
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"


def json_line(question: str, reply: Reply, output: Path | None) -> str:
    """Return a reply as one line of JSON; times are in seconds.

    Args:
        question: what was asked, or its file.
        reply: the answer.
        output: where its sound is; None: nowhere.
    """
    return json.dumps(
        {
            "input": question,
            "text": reply.text,
            "units": reply.units,
            "token_ids": reply.token_ids,
            "timings": asdict(reply.timings),
            "output": None if output is None else str(output),
            "sample_rate": reply.sample_rate,
            "duration_s": reply.duration_s,
            "real_time_factor": reply.real_time_factor,
            "lagging_words": reply.lagging_words,
            "finish_reason": reply.finish_reason,
        }
    )


@contextmanager
def byte_bar() -> Iterator[Callable[[int, int, str], None]]:
    """Show how many bytes are done, where somebody is looking."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done_bytes, total_bytes, name: None  # noqa: ARG005
        return
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True)
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task("reading", total=None)

        def show(done_bytes: int, total_bytes: int, name: str) -> None:
            bar.update(task, completed=done_bytes, total=total_bytes, description=name)

        yield show


def working(what: str) -> AbstractContextManager[Any]:
    """Show that something takes long, where somebody is looking."""
    console = Console(stderr=True)
    return console.status(what) if console.is_terminal else nullcontext()


class Player:
    """Plays sound as it comes, in a thread of its own, so that nobody waits for the speakers.

    Raises:
        MissingExtraError: sounddevice is not installed.
        OutputError: There is no sound device, or no PortAudio library.
    """

    def __init__(self) -> None:
        try:
            self._device: Any = importlib.import_module("sounddevice")
            self._device.query_devices(kind="output")
        except ImportError as error:
            raise MissingExtraError("sounddevice", "play", "--play") from error
        except (OSError, ValueError) as error:  # no library; no device
            raise OutputError(f"--play must have a sound device, got: {error}") from error
        except self._device.PortAudioError as error:
            raise OutputError(f"--play must have a sound device, got: {error}") from error
        self._pieces: queue.SimpleQueue[NDArray[np.float32] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None

    def play(self, samples: NDArray[np.float32], sample_rate: int) -> None:
        """Add sound behind what is still to be played."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, args=(sample_rate,), daemon=True)
            self._thread.start()
        self._pieces.put(samples)

    def finish(self) -> None:
        """Wait until everything was heard."""
        if self._thread is None:
            return
        self._pieces.put(None)
        self._thread.join()
        self._thread = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise OutputError(f"--play must have a sound device, got: {failure}") from failure

    def _run(self, sample_rate: int) -> None:
        try:
            stream = self._device.OutputStream(samplerate=sample_rate, channels=1, dtype="float32")
            with stream:
                while (samples := self._pieces.get()) is not None:
                    stream.write(np.ascontiguousarray(samples))
        except (self._device.PortAudioError, ValueError) as error:
            self._failure = error
            while self._pieces.get() is not None:  # nobody hears the rest
                pass
