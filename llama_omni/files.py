"""Files that appear whole or not at all, whatever is killed and whenever the power goes."""

import os
from contextlib import suppress
from pathlib import Path

from llama_omni.errors import OutputError


def write_text(path: Path, text: str) -> None:
    """Write a small file of UTF-8 that appears whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file that appears whole or not at all, and make its folder.

    Raises:
        OutputError: it cannot be written; what was there before is left.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as sink:
            sink.write(data)
            sink.flush()
            os.fsync(sink.fileno())
        part.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):  # its folder may be a file
            part.unlink()
        raise OutputError(f"{path} must be writable, got: {error.strerror or error}") from error


def sync_folder(folder: Path) -> None:
    """Put a folder's new names on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
