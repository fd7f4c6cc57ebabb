"""Processes that share a build's parts between them; one process does without any other.

They are spawned, not forked: libraries with threads of their own are safe, and a program that a
voice needs is opened by the process that speaks with it.
"""

import atexit
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from llama_omni import errors
from llama_omni.data.journal import Part
from llama_omni.data.stages import Setup, Worker
from llama_omni.errors import LlamaOmniError, ToolError

Task = tuple[str, int, Any]  # stage, number, argument
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Workers:
    """Processes that do parts; leave with `close`.

    Args:
        setup: What each of them must know.
        processes: How many; 1 works in this process.
    """

    def __init__(self, setup: Setup, processes: int) -> None:
        self._own = Worker(setup)
        self._pool: ProcessPoolExecutor | None = None
        self._environment = {name: os.environ.get(name) for name in _THREADS}
        if processes > 1:
            for name in _THREADS:  # for those that begin, one by one, with the first tasks
                os.environ[name] = "1"
            context = multiprocessing.get_context("spawn")
            self._before = set(multiprocessing.active_children())
            self._pool = ProcessPoolExecutor(
                processes, mp_context=context, initializer=_begin, initargs=(setup,)
            )

    def run(self, tasks: Sequence[Task], *, alone: bool = False) -> Iterator[Part]:
        """Do tasks, and yield the outcome of each when it is finished.

        Args:
            tasks: In the order in which they are begun.
            alone: In this process, whatever others there are.

        Raises:
            LlamaOmniError: The first that a task raised; what other tasks finished is kept.
        """
        if self._pool is None or alone or not tasks:
            for task in tasks:
                yield self._own.do(*task)
            return
        futures = [self._pool.submit(_do, *task) for task in tasks]
        try:
            for future in as_completed(futures):
                found = future.result()
                if not isinstance(found, Part):
                    raise _restored(*found)
                yield found
        except BrokenProcessPool as error:
            raise ToolError(
                "a process of the build ended before its work did: killed, or out of memory; run "
                "the same command again, it goes on from here (fewer --processes need less memory)"
            ) from error
        finally:
            for future in futures:
                future.cancel()

    def close(self, *, now: bool = False) -> None:
        """End the processes; `now` without waiting for what they do."""
        if self._pool is not None:
            if now:
                for child in set(multiprocessing.active_children()) - self._before:
                    child.terminate()
            self._pool.shutdown(wait=True, cancel_futures=True)
            for name, value in self._environment.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value
        self._own.close()


_worker: Worker | None = None  # of this process, where it is one of several


def _begin(setup: Setup) -> None:
    """Prepare a process: Ctrl-C is the parent's business, and no process outlives the parent."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker = Worker(setup)
    atexit.register(_worker.close)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "a spawned process has one"
    parent.join()
    os._exit(1)


def _do(stage: str, number: int, argument: Any) -> Part | tuple[str, str]:
    """Do a part; return the name and message of what was refused on purpose."""
    assert _worker is not None, "_begin ran"
    try:
        return _worker.do(stage, number, argument)
    except LlamaOmniError as error:  # not all of them can be pickled
        return type(error).__name__, str(error)


def _restored(name: str, message: str) -> LlamaOmniError:
    kind = getattr(errors, name, LlamaOmniError)
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    return error
