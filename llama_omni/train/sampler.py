"""Which rows each step takes, and the loader that makes its batches.

Unusual: nothing here has a position to save. The rows of a step follow from the seed and the
step's number alone, and do not depend on how a step's rows are divided over processes and
accumulation; so a resumed run, and one with another number of processes, sees the same rows.
"""

import random
import signal
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch.utils.data import DataLoader, Dataset, get_worker_info

from llama_omni.errors import ConfigError, LlamaOmniError

Batch = tuple[list[int], dict[str, Any]]  # its rows, and what `Task.collate` made


class StepPlan:
    """Length-grouped rows: windows of `bucket` steps are sorted by length, their steps shuffled.

    The rows come from one endless stream of epochs, each in its own random order, so every row is
    seen equally often whatever the sizes.
    """

    def __init__(
        self,
        lengths: Sequence[float | int] | np.ndarray,
        *,
        rows_per_step: int,
        bucket: int,
        seed: int,
    ) -> None:
        self._lengths = np.asarray(lengths, np.float64)  # (N,)
        if not len(self._lengths):
            raise ConfigError("the data set must hold at least one row, got none")
        self._rows, self._seed = rows_per_step, seed
        # A window beyond an epoch would put the same row into one batch many times.
        self._window = max(1, min(bucket, len(self._lengths) // rows_per_step))
        self._sorted: dict[int, np.ndarray] = {}  # the window that was asked for last

    def rows(self, step: int) -> Int[np.ndarray, " R"]:
        """Return the rows of a step, from the shortest to the longest."""
        window, place = divmod(step, self._window)
        if window not in self._sorted:
            self._sorted = {window: self._sort(window)}
        return self._sorted[window][place]

    def _permute(self, epoch: int) -> Int[np.ndarray, " N"]:
        return np.random.default_rng((self._seed, 0, epoch)).permutation(len(self._lengths))

    def _sort(self, window: int) -> Int[np.ndarray, "W R"]:
        size, N = self._window * self._rows, len(self._lengths)
        first, last = window * size, (window + 1) * size
        epochs = range(first // N, (last - 1) // N + 1)
        stream = np.concatenate([self._permute(epoch) for epoch in epochs])
        rows = stream[first - epochs[0] * N :][:size]  # (W * R,)
        rows = rows[np.argsort(self._lengths[rows], kind="stable")].reshape(self._window, -1)
        return np.random.default_rng((self._seed, 1, window)).permutation(rows)


class Part(list[Any]):
    """The rows of a batch as `Task.collate` gets them, and where in their step they are.

    Args:
        dataset: Rows by number.
        rows: Numbers of the step's.
        first: Place in the step of the batch's first row; with it and the random numbers that are
            seeded for the step, a row is treated alike however the step is divided.
        size: Rows of the batch.
    """

    def __init__(self, dataset: Any, rows: Sequence[int], *, first: int, size: int) -> None:
        super().__init__(dataset[row] for row in rows[first : first + size])
        self._dataset, self._rows, self.first = dataset, rows, first

    def other(self, number: int) -> Any:
        """Return some row of the step: the same for a number in whichever batch it is asked."""
        place = number % len(self._rows)
        if self.first <= place < self.first + len(self):
            return self[place - self.first]
        return self._dataset[self._rows[place]]


def as_part(items: Sequence[Any]) -> Part:
    """Return a batch that `Batches` did not make as one that is a step of its own."""
    if isinstance(items, Part):
        return items
    return Part(items, range(len(items)), first=0, size=len(items))


class Batches(Dataset):
    """Batches by (step, part): part p of a step is rows p * size to (p + 1) * size of it."""

    def __init__(self, task: Any, dataset: Any, plan: StepPlan, *, size: int, seed: int) -> None:
        self._task, self._dataset, self._plan = task, dataset, plan
        self._size, self._seed = size, seed

    def __getitem__(self, key: tuple[int, int]) -> Any:
        """Return a batch and its rows; in a loader's worker, also what was refused."""
        try:
            return self._batch(*key)
        except LlamaOmniError as error:
            if get_worker_info() is None:
                raise
            return error  # raised by a worker, it would come with a page about the worker

    def _batch(self, step: int, part: int) -> Batch:
        rows = self._plan.rows(step).tolist()
        begin = getattr(self._task, "begin_step", None)
        if begin is not None:  # a task whose batches change as training goes on
            begin(step)
        first = part * self._size
        items = Part(self._dataset, rows, first=first, size=self._size)
        with seeded(self._seed, step):
            return rows[first : first + self._size], self._task.collate(items)

    def loader(
        self, keys: Sequence[tuple[int, int]], *, workers: int, pin_memory: bool
    ) -> Generator[Batch, None, None]:
        """Yield the batches of these keys in order, made ahead by worker processes.

        Close it: workers ignore the signal that Python would end them by.

        Raises:
            LlamaOmniError: a row cannot be read, or makes no batch.
        """
        loader = DataLoader(
            self,
            sampler=keys,  # pyright: ignore[reportArgumentType]
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=workers,
            pin_memory=pin_memory,
            worker_init_fn=_ignore_signals,
            generator=torch.Generator(),  # else it would draw from the run's own
        )
        batches: Any = iter(loader)
        try:
            for batch in batches:
                if isinstance(batch, LlamaOmniError):
                    raise batch
                yield batch
        finally:
            if workers:
                batches._shutdown_workers()  # it has no public way; else at the end of the process


class Keys(Sequence[tuple[int, int]]):
    """The keys of one process from a step on, without a list of millions.

    Parts are sorted by length. Those of one turn go to processes in a random order, else rank 0
    would have the shortest rows of each step and the last rank the longest.
    """

    def __init__(
        self, first: int, last: int, *, accumulation: int, rank: int, processes: int, seed: int
    ) -> None:
        self._first, self._last, self._accumulation = first, last, accumulation
        self._rank, self._processes, self._seed = rank, processes, seed

    def __len__(self) -> int:
        return (self._last - self._first) * self._accumulation

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        step, turn = divmod(index, self._accumulation)
        step += self._first
        order = np.random.default_rng((self._seed, 2, step, turn)).permutation(self._processes)
        return step, turn * self._processes + int(order[self._rank])


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Seed torch's CPU generator, NumPy and random within; put all three back afterwards."""
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    words = np.random.SeedSequence(numbers).generate_state(3)
    torch.random.default_generator.manual_seed(int(words[0]))
    np.random.seed(words[1])
    random.seed(int(words[2]))
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])
        random.setstate(before[2])


def _as_it_is(batch: Any) -> Any:
    return batch


def _ignore_signals(_: int) -> None:
    """Leave Ctrl-C and SIGTERM to the main process, which still wants its batches.

    A terminal and most schedulers send them to all processes of a job.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
