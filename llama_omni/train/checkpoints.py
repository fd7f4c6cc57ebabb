"""Checkpoints that are whole or are not there: made under another name, marked complete last.

A checkpoint holds what learns and what the run needs to go on; frozen weights come from where the
run began, and a fingerprint of them tells when they are not the same.
"""

import hashlib
import json
import logging
import os
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from llama_omni.errors import OutputError, TrainingError
from llama_omni.train.processes import Processes

logger = logging.getLogger(__name__)

MARKER = "COMPLETE"  # holds the size of every file; written last


class Checkpoints:
    """The folder of a run's checkpoints: `step-00001000`, ... Only rank 0 changes it."""

    def __init__(self, folder: Path, *, keep: int, processes: Processes) -> None:
        self._folder, self._keep, self._processes = folder, keep, processes
        if processes.is_main:
            folder.mkdir(parents=True, exist_ok=True)
            self._remove_half()
        processes.wait()

    def newest(self) -> Path | None:
        """Return the newest complete checkpoint."""
        found = sorted(path for path in self._folder.glob("step-*") if _is_complete(path))
        return found[-1] if found else None

    def save(
        self,
        step: int,
        *,
        weights: Mapping[str, Tensor],
        optimizer: dict[str, Any],
        state: dict[str, Any],
        sharded: bool = False,
    ) -> Path:
        """Write a checkpoint; every process calls this with its own random state.

        Args:
            step: optimiser steps that are done.
            weights: by name, only what learns.
            optimizer: its `state_dict`.
            state: JSON-able values of the run.
            sharded: weights and optimiser are this process's part of them.

        Raises:
            OutputError: it cannot be written, such as on a full disk; earlier ones stay.
        """
        target = self._folder / f"step-{step:08d}"
        partial = self._folder / f".step-{step:08d}.partial"
        processes = self._processes
        try:
            if processes.is_main:
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir()
            processes.wait()
            own = f"-{processes.rank}" if sharded else ""
            if sharded or processes.is_main:
                torch.save(dict(weights), partial / f"weights{own}.pt")
                torch.save(optimizer, partial / f"optimizer{own}.pt")
            torch.save(_random_state(processes.device), partial / f"random-{processes.rank}.pt")
            if processes.is_main:
                (partial / "state.json").write_text(json.dumps(state, indent=1))
            processes.wait()
            if processes.is_main:
                _complete(partial, target)
                self._forget()
        except (OSError, RuntimeError) as error:  # torch's writer hides a full disk in the second
            if processes.is_main:
                shutil.rmtree(partial, ignore_errors=True)
            reason = str(error).splitlines()[0]
            raise OutputError(f"{target} must be writable, got: {reason}") from error
        processes.wait()
        return target

    def load(self, path: Path, *, sharded: bool = False) -> dict[str, Any]:
        """Return `weights`, `optimizer` and `state`, and put this process's random state back.

        Raises:
            TrainingError: it is sharded over another number of processes, or cannot be read.
        """
        processes = self._processes
        _check_parts(path, processes.world if sharded else 0)
        own = f"-{processes.rank}" if sharded else ""
        try:
            loaded = {
                "weights": _read(path / f"weights{own}.pt"),
                "optimizer": _read(path / f"optimizer{own}.pt"),
                "state": json.loads((path / "state.json").read_text()),
            }
            mine = path / f"random-{processes.rank}.pt"
            if mine.exists():  # else there are more processes than before
                _restore_random(_read(mine), processes.device)
        except (OSError, RuntimeError, ValueError, EOFError) as error:
            raise TrainingError(
                f"{path} must be readable, got: {str(error).splitlines()[0]}; delete it to go on "
                "from the one before"
            ) from error
        return loaded

    def _forget(self) -> None:
        complete = sorted(path for path in self._folder.glob("step-*") if _is_complete(path))
        for path in complete[: -self._keep]:
            (path / MARKER).unlink()  # first: half a folder must not look whole
            shutil.rmtree(path)

    def _remove_half(self) -> None:
        for path in sorted([*self._folder.glob("step-*"), *self._folder.glob(".step-*.partial")]):
            if not _is_complete(path):
                logger.warning("checkpoint is not complete, removed path=%s", path)
                shutil.rmtree(path, ignore_errors=True)


def fingerprint(model: nn.Module) -> str:
    """Return a hash of the weights that do not learn: names, shapes and some values of each.

    Take it while they are whole: of sharded ones each process sees a part, and hashes that.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        if not parameter.requires_grad:
            values = getattr(parameter.detach(), "_local_tensor", parameter.detach())
            digest.update(f"{name}{tuple(parameter.shape)}".encode())
            some = values.flatten()[:: max(1, values.numel() // 64)][:64]
            digest.update(some.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def write_folder(target: Path, fill: Any) -> None:
    """Let `fill(folder)` make a folder that replaces `target` at once.

    Raises:
        OutputError: it cannot be written; the one before stays.
    """
    partial, before = (target.with_name(f".{target.name}.{end}") for end in ("partial", "before"))
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        fill(partial)
        shutil.rmtree(before, ignore_errors=True)
        if target.exists():
            target.rename(before)
        partial.rename(target)
        shutil.rmtree(before, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{target} must be writable, got: {reason}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # there only where it failed


def _check_parts(path: Path, parts: int) -> None:
    """Refuse a checkpoint of so many sharded parts (0: a whole one) where others are wanted."""
    found = len(list(path.glob("weights-*.pt")))
    if found != parts:
        how = [
            f"sharding=fsdp over {n} processes" if n else "whole weights" for n in (found, parts)
        ]
        raise TrainingError(
            f"{path} must go on with {how[0]}, as it was written, got a run with {how[1]}"
        )


def _complete(partial: Path, target: Path) -> None:
    sizes = {}
    for file in sorted(partial.iterdir()):
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
        sizes[file.name] = file.stat().st_size
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    marker = target / f".{MARKER}"
    with marker.open("w") as stream:
        json.dump(sizes, stream)
        stream.flush()
        os.fsync(stream.fileno())
    marker.rename(target / MARKER)


def _is_complete(path: Path) -> bool:
    try:
        sizes = json.loads((path / MARKER).read_text())
        return all((path / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def _read(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def _random_state(device: torch.device) -> dict[str, Any]:
    version, words, gauss = random.getstate()
    numpy_state: Any = np.random.get_state()
    kind, keys, place, has_gauss, cached = numpy_state
    state = {
        "torch": torch.get_rng_state(),
        "python": (version, list(words), gauss),
        "numpy": (kind, torch.from_numpy(keys.astype(np.int64)), place, has_gauss, cached),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def _restore_random(state: dict[str, Any], device: torch.device) -> None:
    torch.set_rng_state(state["torch"])
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
