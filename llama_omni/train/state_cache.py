"""What is frozen in a stage, computed once: the LLM's states (stage 2), encoder features (stage 1).

Stage 2 trains a small decoder on states that never change; with them on disk an epoch costs the
decoder alone.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from llama_omni.model.omni import OmniModel
from llama_omni.train.collate import Collator
from llama_omni.train.processes import set_up, to_device
from llama_omni.train.reading import answer_tokens, read_batch
from llama_omni.train.row_cache import Arrays, RowCache, data_hash, weights_hash

_POLL_S = 0.5  # between looks at what other processes have made


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StateRow:
    """One answer as stage 2 needs it. Without tokens, it was left out."""

    id: str
    states: NDArray[np.floating]  # (M, D)
    tokens: NDArray[np.int64]  # (M,)
    units: NDArray[np.int64]  # (U,)


class CachedStates(torch.utils.data.Dataset[StateRow]):
    """A data set's answers with the states that the frozen LLM has for them.

    Args:
        dataset: of `Example`s with units.
        cache: with "states" and "tokens" for every row.
    """

    def __init__(self, dataset: Any, cache: RowCache) -> None:
        self._dataset, self._cache = dataset, cache
        self.ids = dataset.ids

    def __len__(self) -> int:
        return len(self._cache)

    def __getitem__(self, index: int) -> StateRow:
        row, example = self._cache[index], self._dataset[index]
        return StateRow(
            id=example.id,
            states=row["states"],
            tokens=row["tokens"][:, 0].astype(np.int64),
            units=example.units,
        )


def cached_states(
    model: OmniModel,
    collator: Collator,
    dataset: Any,
    folder: Path,
    *,
    units: Any = None,
    ctc_states: str = "predicting",
    dtype: str = "float16",
    batch_size: int = 16,
    device: str = "auto",
) -> CachedStates:
    """Compute the states of every answer, or find them on disk.

    Args:
        model: all but its speech decoder decides the states.
        collator: encodes the examples; rows that do not fit the model get no state.
        dataset: of examples with sound and units.
        folder: for the cache; safe to share between runs.
        units: the same rows, read without sound; None: `dataset`.
        ctc_states: "predicting" or "labelled".
        dtype: "float16" or "float32".
        batch_size: rows of one forward pass.
        device: see `TrainSettings`.
    """
    config = model.config
    key = {
        "kind": "states of all rows",  # also of those whose units this run leaves out
        "weights": weights_hash(model.encoder, model.adapter, model.llm),
        "data": data_hash(dataset),
        "words": _words_hash(collator, dataset),
        "ctc_states": ctc_states,
        "limits": [config.max_positions, config.pad_to_window, collator.history],
    }
    fields = {"states": (dtype, config.llm.hidden_size), "tokens": ("int32", 1)}
    cache = RowCache(folder, key=key, fields=fields, num_rows=len(dataset))

    # What units decide (too_long, upsample_factor, num_units) is not in the key: it is decided when
    # the states are read, so that runs which differ in it share the cache.
    collator = replace(collator, units=False)

    def make(items: Sequence[Any]) -> list[Arrays]:
        empty = {"states": np.zeros((0, 1)), "tokens": np.zeros((0, 1))}
        batch = to_device(collator(items), model.device)
        if not batch["ids"]:
            return [empty] * len(items)
        merged, hidden = read_batch(model, batch)
        states, _, lengths = model.answer_states(hidden, merged, ctc_states)
        tokens = answer_tokens(merged)
        found = {
            name: {
                "states": states[row, :length].float().cpu().numpy(),
                "tokens": tokens[row, :length].cpu().numpy(),
            }
            for row, (name, length) in enumerate(zip(batch["ids"], lengths.tolist(), strict=True))
        }
        return [found.get(item.id, empty) for item in items]

    _fill(cache, model, dataset, make, batch_size=batch_size, device=device, name="LLM states")
    return CachedStates(units or dataset, cache)


class FeatureCache:
    """Encoder features by an example's id, for a `Collator`."""

    def __init__(self, cache: RowCache, ids: Sequence[str]) -> None:
        self._cache = cache
        self._rows = {name: row for row, name in enumerate(ids)}

    def __call__(self, name: str) -> tuple[list[NDArray[np.float32]], list[int]]:
        """Return the (N, E) features of each spoken turn, and their lengths in mel frames."""
        row = self._cache[self._rows[name]]
        lengths = row["mel_lengths"][:, 0].tolist()
        ends = np.cumsum([(n + 1) // 2 for n in lengths])
        return np.split(row["features"].astype(np.float32), ends[:-1]), lengths


def cached_features(
    model: OmniModel,
    collator: Collator,
    dataset: Any,
    folder: Path,
    *,
    batch_size: int = 16,
    device: str = "auto",
) -> FeatureCache:
    """Compute the frozen encoder's features of every spoken turn, or find them on disk."""
    width = model.config.encoder.d_model
    key = {
        "kind": "features",
        "weights": weights_hash(model.encoder),
        "data": data_hash(dataset),
        "history": collator.history,
        "pad_to_window": model.config.pad_to_window,
    }
    fields = {"features": ("float16", width), "mel_lengths": ("int32", 1)}
    cache = RowCache(folder, key=key, fields=fields, num_rows=len(dataset))

    def make(items: Sequence[Any]) -> list[Arrays]:
        rows = [collator.row(item) for item in items]
        window = model.encoder.window
        for row in rows:
            row.sounds = [sound[: window * 160] for sound in row.sounds]  # is left out later on
        batch = to_device(collator.sounds(rows), model.device)
        lengths = batch["mel_lengths"].clamp(max=window)
        features = model.encoder(batch["mel"].to(model.dtype), lengths).float().cpu().numpy()
        made, first = [], 0
        for row in rows:
            kept = [min(n, window) for n in row.mel_lengths]
            parts = [features[first + i, : (n + 1) // 2] for i, n in enumerate(kept)]
            first += len(kept)
            made.append(
                {"features": np.concatenate(parts), "mel_lengths": np.array(row.mel_lengths)}
            )
        return made

    _fill(cache, model, dataset, make, batch_size=batch_size, device=device, name="features")
    return FeatureCache(cache, dataset.ids)


def _words_hash(collator: Collator, dataset: Any) -> list[list[int]]:
    """Return what tokeniser and template make of two rows: another of either shows in them."""
    rows = [dataset[row] for row in (0, len(dataset) - 1)]
    return [collator.row(row).ids for row in rows]


@torch.no_grad()
def _fill(
    cache: RowCache,
    model: OmniModel,
    dataset: Any,
    make: Callable[[Sequence[Any]], list[Arrays]],
    *,
    batch_size: int,
    device: str,
    name: str,
) -> None:
    """Make what is missing; several processes take turns and wait for each other."""
    processes = set_up(device)
    missing = processes.from_main(cache.missing())  # one list, of which each process takes a share
    if not missing:
        return
    model.to(processes.device)  # pyright: ignore[reportArgumentType]
    training = model.training
    model.eval()
    bar = Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not processes.is_main or not sys.stderr.isatty(),
    )
    with bar:
        task = bar.add_task(name, total=len(dataset), completed=len(dataset) - _count(missing))
        for rows in missing[processes.rank :: processes.world]:
            items = [dataset[row] for row in rows]
            by_length = sorted(range(len(items)), key=lambda i: len(items[i].audio))
            made: dict[int, Arrays] = {}
            for first in range(0, len(items), batch_size):
                part = by_length[first : first + batch_size]
                made |= dict(zip(part, make([items[i] for i in part]), strict=True))
                bar.advance(task, len(part))
            cache.write(rows, [made[i] for i in range(len(items))])
        while cache.missing():  # what other processes still make
            time.sleep(_POLL_S)
    model.train(training)


def _count(shards: Sequence[range]) -> int:
    return sum(len(rows) for rows in shards)
