"""A folder that appears whole or not at all."""

import glob
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llama_omni.errors import OutputError

logger = logging.getLogger(__name__)

_ROOM_BYTES = 1 << 27  # on disk for the small files beside


@contextmanager
def folder_at_once(output: Path, num_bytes: int) -> Iterator[Path]:
    """Give a folder to write in that becomes `output` at the end, or leaves nothing.

    Args:
        output: must not exist, or be an empty folder, see `refuse_output`.
        num_bytes: that will be written; as much must be free on the disk.

    Raises:
        OutputError: too little is free, or something cannot be written.
    """
    partial = output.parent / f".{output.name}.{os.getpid()}.partial"
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(output.parent).free
        if free < num_bytes + _ROOM_BYTES:
            raise OutputError(
                f"{output.parent} must have {num_bytes + _ROOM_BYTES:,} bytes free, got {free:,}"
            )
        partial.mkdir()
        try:
            yield partial
            partial.replace(output)
        except BaseException as error:
            shutil.rmtree(partial, ignore_errors=True)
            if not isinstance(error, Exception):  # Ctrl-C
                logger.warning("conversion interrupted, nothing was written: path=%s", output)
            raise
    except OSError as error:
        raise OutputError(f"{output} must be writable, got: {error.strerror}") from error


def refuse_output(output: Path) -> None:
    """Check, before any work, that a folder can be made there.

    Raises:
        OutputError: there is a file, or a folder with something in it.
    """
    if output.is_dir():
        if any(output.iterdir()):
            raise OutputError(f"{output} must be a new or empty folder, got one with files in it")
    elif output.exists():
        raise OutputError(f"{output} must be a new or empty folder, got a file")
    for left in output.parent.glob(f".{glob.escape(output.name)}.*.partial"):
        logger.warning("left by a conversion that was killed, delete it: path=%s", left)
