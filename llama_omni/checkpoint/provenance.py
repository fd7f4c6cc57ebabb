"""Where a converted model comes from: what was read, byte for byte, and by which versions."""

import hashlib
import platform
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from llama_omni.errors import CheckpointError

Progress = Callable[[int, int, str], None]  # bytes done, bytes in all, file

_PACKAGES = ("torch", "transformers", "safetensors", "numpy")
_PIECE_BYTES = 1 << 22  # hashed at once


class Meter:
    """Counts bytes for the caller's progress bar."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def add(self, num_bytes: int, file: str) -> None:
        """Count bytes of a file."""
        self._done += num_bytes
        if self._progress is not None:
            self._progress(self._done, self._total, file)


def provenance(inputs: Iterable[Path], meter: Meter, **facts: str) -> dict[str, Any]:
    """Return facts, date, versions, and every input's size and SHA-256.

    Raises:
        CheckpointError: an input cannot be read any more.
    """
    return {
        "made_by": f"llama-omni {_own_version()}",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **facts,
        "inputs": [_fingerprint(path, meter) for path in inputs],
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in _PACKAGES},
        },
    }


def _own_version() -> str:
    try:
        return version("llama-omni")
    except PackageNotFoundError:
        return "from a source tree"


def _fingerprint(path: Path, meter: Meter) -> dict[str, Any]:
    digest, num_bytes = hashlib.sha256(), 0
    name = f"{path.parent.resolve().name}/{path.name}"
    try:
        with path.open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                digest.update(piece)
                num_bytes += len(piece)
                meter.add(len(piece), path.name)
    except OSError as error:
        raise CheckpointError(f"{path} must be readable, got: {error.strerror}") from error
    return {"name": name, "bytes": num_bytes, "sha256": digest.hexdigest()}
