"""Markdown as reports write it: tables and escaped text. Pure functions."""

from collections.abc import Iterable, Sequence

_MARKS = str.maketrans({mark: f"\\{mark}" for mark in "\\`*_{}<>|~"})


def escape(text: str) -> str:
    r"""Return a text that Markdown shows as it is, on one line: "a_b" is a\_b."""
    return " ".join(text.split()).translate(_MARKS).replace("](", "]\\(")  # no link


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, words: bool = False
) -> list[str]:
    """Return the lines of a table.

    Args:
        header: one cell a column.
        rows: cells, escaped where they must be.
        words: all columns are words; else all but the first are numbers.
    """
    rule = ["---"] * len(header) if words else ["---", *["---:"] * (len(header) - 1)]
    return ["| " + " | ".join(row) + " |" for row in [header, rule, *rows]]
