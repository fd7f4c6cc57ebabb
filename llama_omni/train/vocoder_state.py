"""A vocoder run's folder: checkpoints that are whole or absent, and numbers without repeats."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from llama_omni.errors import CheckpointError, ConfigError

_COMPLETE = "COMPLETE"
# What may differ between a run and its continuation: none of these changes a loss.
_FREE = ("save_every", "eval_every", "log_every", "keep", "samples")


class RunFolder:
    """checkpoints/step-N, metrics.jsonl and settings.json of one run.

    Args:
        path: the run's folder; made where absent.
        settings: what the run is; kept, and compared when the run goes on.
        resume: go on with what is there; otherwise begin anew.

    Raises:
        ConfigError: what is there was begun with other settings; names them.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], *, resume: bool) -> None:
        self.path = path
        self._checkpoints, self._metrics = path / "checkpoints", path / "metrics.jsonl"
        path.mkdir(parents=True, exist_ok=True)
        if not resume:
            shutil.rmtree(self._checkpoints, ignore_errors=True)
            self._metrics.unlink(missing_ok=True)
        wanted = json.loads(json.dumps(settings))
        if self._complete():
            self._compare(wanted)
        _write(path / "settings.json", json.dumps(wanted, indent=1))

    def load(self) -> dict[str, Any] | None:
        """Return the newest whole checkpoint, and drop the numbers that came after it.

        Raises:
            CheckpointError: it cannot be read though it was marked as whole.
        """
        complete = self._complete()
        if not complete:
            self._metrics.unlink(missing_ok=True)
            return None
        try:
            state = torch.load(complete[-1] / "state.pt", map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, ValueError) as error:
            raise CheckpointError(
                f"{complete[-1]} must be a readable checkpoint; delete it to go on from the one "
                "before"
            ) from error
        rows = self._metrics.read_text().splitlines() if self._metrics.exists() else []
        whole = [
            row for row in rows if row.endswith("}") and json.loads(row)["step"] <= state["step"]
        ]
        _write(self._metrics, "".join(f"{row}\n" for row in whole))
        return state

    def save(self, state: Mapping[str, Any], *, keep: int) -> None:
        """Write a checkpoint, mark it as whole, then delete all but the newest `keep`."""
        folder = self._checkpoints / f"step-{state['step']:08d}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        with (folder / "state.pt").open("wb") as sink:
            torch.save(dict(state), sink)
            sink.flush()
            os.fsync(sink.fileno())
        _write(folder / _COMPLETE, "")
        for old in self._complete()[:-keep]:
            (old / _COMPLETE).unlink()
            shutil.rmtree(old)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Append one line of numbers."""
        with self._metrics.open("a") as sink:
            sink.write(json.dumps({"step": step} | dict(numbers)) + "\n")

    def _complete(self) -> list[Path]:
        """Return whole checkpoints, oldest first."""
        return sorted(mark.parent for mark in self._checkpoints.glob(f"step-*/{_COMPLETE}"))

    def _compare(self, wanted: Mapping[str, Any]) -> None:
        path = self.path / "settings.json"
        found = json.loads(path.read_text()) if path.exists() else {}
        for name in sorted(set(found) | set(wanted)):
            if name not in _FREE and found.get(name) != wanted.get(name):
                raise ConfigError(
                    f"{name} must be {found.get(name)!r} to go on with {self.path}, got "
                    f"{wanted.get(name)!r}; choose another output folder, or do not resume"
                )


def _write(path: Path, text: str) -> None:
    """Replace a small file; it is the old one or the new one, whatever happens."""
    half = path.with_name(f".{path.name}.half")
    with half.open("w") as sink:
        sink.write(text)
        sink.flush()
        os.fsync(sink.fileno())
    half.replace(path)
