"""What a run writes beside its weights, and one error for every way in which a disk refuses.

A full disk shows as an OSError, or as an error of whichever library wrote: safetensors and
tokenizers raise types of their own with the system's number in the text, torch's writer hides it.
"""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llama_omni.errors import OutputError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
_FORBIDDEN = {errno.EACCES, errno.EPERM}
_RUST = re.compile(r"\(os error (\d+)\)")
_TORCH = re.compile(r"inline_container\.cc.*(PytorchStreamWriter|unexpected pos)")


@contextmanager
def writing(what: str | Path) -> Iterator[None]:
    """Let errors of a full or forbidden disk be `OutputError` within; others pass as they are.

    Args:
        what: names what is written where the error does not name a file itself.

    Raises:
        OutputError: something cannot be written.
    """
    try:
        yield
    except OutputError:
        raise
    except Exception as error:
        message = _refusal(error, what)
        if message is None:
            raise
        raise OutputError(message) from error


def _refusal(error: Exception, what: str | Path) -> str | None:
    if isinstance(error, OSError):
        place = what if error.filename is None else error.filename
        if error.errno in _FULL:
            return f"{place} must be writable, got: {error.strerror}"
        if error.errno in _FORBIDDEN:
            return f"{place} must be readable and writable, got: {error.strerror}"
        return None
    found = _RUST.search(str(error))
    if found and int(found[1]) in _FULL | _FORBIDDEN:
        return f"{what} must be writable, got: {os.strerror(int(found[1]))}"
    if isinstance(error, RuntimeError) and _TORCH.search(str(error)):
        return f"{what} must be writable, got: {str(error).splitlines()[0]}"
    return None
