"""Lines that somebody types, or that come through a pipe, for an event loop."""

import asyncio
import codecs
import os
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TextIO

_MOST = 65_536  # bytes that are read at once


async def read_lines(stream: TextIO) -> AsyncIterator[str]:
    """Give lines, without their ends, until there are no more.

    A thread waits for them, maybe for ever. It reads the file itself: whoever holds the stream's
    own buffer could not be left behind when the program ends.
    """
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[str | None] = asyncio.Queue()

    def tell(line: str | None) -> None:
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(lines.put_nowait, line)

    def work() -> None:
        decode = codecs.getincrementaldecoder(stream.encoding or "utf-8")("replace").decode
        begun = ""
        with suppress(OSError):  # the terminal is gone
            while data := os.read(stream.fileno(), _MOST):
                *whole, begun = (begun + decode(data)).split("\n")
                for line in whole:
                    tell(line.removesuffix("\r"))
        if begun:
            tell(begun)
        tell(None)

    threading.Thread(target=work, name="lines", daemon=True).start()
    while (line := await lines.get()) is not None:
        yield line
