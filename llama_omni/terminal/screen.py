"""What a talk writes: answers on one stream, everything else on another, and the state it is in."""

import re
from typing import Protocol, runtime_checkable

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and newline


def printable(text: str) -> str:
    """Replace the control characters by which a model's words could take over a terminal."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


@runtime_checkable
class Stream(Protocol):
    """What is written to: a file of text."""

    def write(self, text: str, /) -> object:
        """Write a text."""
        ...

    def flush(self) -> None:
        """Show what was written."""
        ...

    def isatty(self) -> bool:
        """Tell whether somebody looks at it."""
        ...


class Screen:
    """Two streams that may be one terminal.

    Args:
        out: gets the answers' words and nothing else, one line an answer.
        err: gets remarks; on a terminal also the state, on a line that comes and goes.
    """

    def __init__(self, out: Stream, err: Stream) -> None:
        self._out, self._err = out, err
        self._is_live = err.isatty()
        self._state = ""  # on the terminal's last line now
        self._has_words = False  # on a line that has not ended

    def words(self, text: str) -> None:
        """Write more of an answer."""
        self._clear()
        self._write(self._out, printable(text))
        self._has_words = True

    def end_words(self) -> None:
        """End the line of an answer."""
        if self._has_words:
            self._write(self._out, "\n")
            self._has_words = False

    def remark(self, text: str) -> None:
        """Write a line about the talk."""
        self._clear()
        self.end_words()
        self._write(self._err, f"({printable(text)})\n")

    def state(self, text: str) -> None:
        """Show what the talk is doing, until something else is written."""
        if self._is_live and not self._has_words and text != self._state:
            self._clear()
            self._write(self._err, f"[{text}] ")
            self._state = text

    def entered(self) -> None:
        """Take that the terminal has begun a new line, because one was typed."""
        self._state = ""

    def close(self) -> None:
        """Leave the terminal at the beginning of a line."""
        self._clear()
        self.end_words()

    def _clear(self) -> None:
        if self._state:
            blank = " " * (len(self._state) + 3)
            self._write(self._err, f"\r{blank}\r")
            self._state = ""

    def _write(self, stream: Stream, text: str) -> None:
        stream.write(text)
        stream.flush()
