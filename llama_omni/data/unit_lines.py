"""Units of many sounds, as lines of JSON in one file that a killed run goes on with.

A line is {"id", "units", "durations", "kmeans"}: reduced units, frames of each, and the first
digits of the hash of the centres. Lines are in the order of the sounds, whatever the processes.
"""

import fcntl
import json
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any

import torch

from llama_omni.audio import UNIT_RATE
from llama_omni.data.sounds import Sounds
from llama_omni.data.units import UnitExtractor
from llama_omni.errors import InputError, OutputError, ToolError

_HASH_DIGITS = 12
_BEGIN = b'{"id":'  # of each line
_TASK_SOUNDS = 8  # given to a process at once
_TASKS_AHEAD = 4  # for each process


@dataclass(kw_only=True, slots=True)
class Extraction:
    """What a run did."""

    done: int = 0  # sounds of this run
    skipped: int = 0  # done by an earlier one
    frames: int = 0
    units: int = 0
    seconds: float = 0.0
    rejects: list[tuple[str, str]] = field(default_factory=list)  # id, reason

    @property
    def sound_s(self) -> float:
        """Seconds of sound that this run named."""
        return self.frames / UNIT_RATE


def extract_units(
    sounds: Sounds,
    units: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    processes: int = 1,
    source: str | None = None,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Extraction:
    """Write the units of each sound; sounds that the file has already are skipped.

    Args:
        sounds: see `open_sounds`.
        units: a folder of fitted units.
        output: `.jsonl`; its last line is taken back where a killed run left it incomplete.
        processes: how many work side by side, each on one thread.
        source: where the model behind the features is now, if it moved.
        device: where to compute; another than the CPU wants one process.
        progress: is told how many of all sounds are done.

    Returns:
        What was done, with the sounds that could not be read; a rerun tries those again.

    Raises:
        CheckpointError, ConfigError: the units cannot be loaded.
        InputError: the file holds other units, or something else.
        OutputError: the file cannot be written, or another run writes it.
        ToolError: a process died.
    """
    began = time.monotonic()
    setup = _Setup(sounds, os.fspath(units), source, device)
    report = Extraction()
    with _one_thread(), _alone_with(Path(output)) as file:
        worker = _Worker(setup)  # here too: bad units are told before any process begins
        kmeans = worker.extractor.sha256[:_HASH_DIGITS]
        known = _known_ids(file, Path(output), kmeans)
        todo = [index for index, name in enumerate(sounds.ids) if name not in known]
        report.skipped = len(sounds) - len(todo)
        tasks = [todo[first : first + _TASK_SOUNDS] for first in range(0, len(todo), _TASK_SOUNDS)]
        for made in _work(worker, setup, tasks, processes):
            if isinstance(made, _Refused):
                report.rejects.append((made.id, made.reason))
            else:
                _append(file, Path(output), made.line(kmeans))
                report.done += 1
                report.frames += sum(made.durations)
                report.units += len(made.units)
            if progress is not None:
                progress(report.skipped + report.done + len(report.rejects), len(sounds))
    report.seconds = time.monotonic() - began
    return report


@dataclass(frozen=True, slots=True)
class _Made:
    """The units of one sound."""

    id: str
    units: list[int]
    durations: list[int]

    def line(self, kmeans: str) -> bytes:
        row = {
            "id": self.id,
            "units": self.units,
            "durations": self.durations,
            "kmeans": kmeans,
        }
        return json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class _Refused:
    """A sound that cannot be used."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class _Setup:
    """What each process must know."""

    sounds: Sounds
    units: str
    source: str | None
    device: str


class _Worker:
    """Names units of sounds by their number."""

    def __init__(self, setup: _Setup) -> None:
        self.sounds = setup.sounds
        self.extractor = UnitExtractor.load(setup.units, source=setup.source, device=setup.device)

    def do(self, indices: Sequence[int]) -> Iterator[_Made | _Refused]:
        for index in indices:
            name = self.sounds.ids[index]
            try:
                made = self.extractor.units(self.sounds[index], name=name)
            except InputError as error:
                yield _Refused(name, str(error))
            else:
                yield _Made(name, made.units.tolist(), made.durations.tolist())


def _work(
    own: _Worker, setup: _Setup, tasks: Sequence[Sequence[int]], processes: int
) -> Iterator[_Made | _Refused]:
    """Yield the outcome of every sound of every task, in order."""
    if processes <= 1 or len(tasks) <= 1:
        for task in tasks:
            yield from own.do(task)
        return
    # Spawned, not forked: torch's threads do not survive a fork.
    pool = ProcessPoolExecutor(
        min(processes, len(tasks)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(setup,),
    )
    ahead: deque[Future[list[_Made | _Refused]]] = deque()
    left = iter(tasks)
    try:
        while True:
            while len(ahead) < _TASKS_AHEAD * processes and (task := next(left, None)):
                ahead.append(pool.submit(_do, task))
            if not ahead:
                return
            yield from ahead.popleft().result()
    except BrokenProcessPool as error:
        raise ToolError(
            "a process must live as long as its work, got one that was killed or ran out of "
            "memory; run the same command again, it goes on from here"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_worker: Any = None  # of this process, where it is one of several


def _begin(setup: _Setup) -> None:
    """Prepare a process: Ctrl-C is its parent's business, and it does not outlive its parent."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _worker = _Worker(setup)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "a spawned process has one"
    parent.join()
    os._exit(1)


def _do(indices: Sequence[int]) -> list[_Made | _Refused]:
    return list(_worker.do(indices))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread: more sum in another order, and a frame could change its unit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _alone_with(path: Path) -> Iterator[FileIO]:
    """Open the output for this run only; what is in it stays."""
    if path.exists() and not path.is_file():
        raise OutputError(f"{path} must be a file, got a folder or a device")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab", buffering=0)  # a full disk is told by the write, not at the close
    except OSError as error:
        raise OutputError(f"{path} must be a writable file, got: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OutputError(
                f"{path} must be written by one run at a time, got a second"
            ) from error
        yield file
        os.fsync(file.fileno())


def _known_ids(file: FileIO, path: Path, kmeans: str) -> set[str]:
    """Return the ids of the lines that are there, without a last one that is no whole line."""
    known: set[str] = set()
    whole, size = 0, os.fstat(file.fileno()).st_size  # bytes
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            row = _row_of(line)
            if row is None:
                last = whole + len(line) == size
                if last and (line.startswith(_BEGIN) or _BEGIN.startswith(line)):
                    break  # what a killed run left of its last line
                raise InputError(
                    f"{path}, line {number} must be a line of units, got {line[:40]!r}; "
                    "delete it or choose another file"
                )
            if row["kmeans"] != kmeans:
                raise InputError(
                    f"{path} must hold units of these centres ({kmeans}), got those of "
                    f"{row['kmeans']}; delete it or choose another file"
                )
            known.add(row["id"])
            whole += len(line)
    file.truncate(whole)
    return known


def _row_of(line: bytes) -> dict[str, Any] | None:
    """Return a line of units, or None where it is not one or not a whole one."""
    try:
        row = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    ours = isinstance(row, dict) and isinstance(row.get("id"), str) and "kmeans" in row
    return row if ours else None


def _append(file: FileIO, path: Path, line: bytes) -> None:
    try:
        left = memoryview(line)
        while left:
            left = left[file.write(left) :]
    except OSError as error:
        raise OutputError(
            f"{path} must have room on its disk, got: {error.strerror}; make some and run the same "
            "command again, it goes on from here"
        ) from error
