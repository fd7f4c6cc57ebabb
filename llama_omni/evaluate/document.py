"""A report as plain data, before it is Markdown or HTML."""

from collections.abc import Sequence
from dataclasses import dataclass

from llama_omni.markdown import escape
from llama_omni.markdown import table as markdown_table


@dataclass(frozen=True, slots=True)
class Sound:
    """A sound to play, by its file relative to the results folder that it came from."""

    path: str  # relative to the report
    label: str = "listen"


Cell = str | Sound


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading of level 1 to 3."""

    text: str
    level: int = 2


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Running text."""

    text: str


@dataclass(frozen=True, slots=True)
class Bullets:
    """A list, in which each line is a name and what is said of it, or only the latter."""

    lines: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Table:
    """A table; `words`: its columns are words, not numbers. `quoted`: rows from elsewhere."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    words: bool = False
    quoted: int = 0  # so many of the last rows are published figures


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture, by its file beside the report."""

    path: str
    alt: str


Block = Heading | Paragraph | Bullets | Table | Picture


def markdown(blocks: Sequence[Block]) -> str:
    """Return a report as Markdown, whose pictures and sounds are links to files."""
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def _markdown(block: Block) -> str:
    if isinstance(block, Heading):
        return f"{'#' * block.level} {escape(block.text)}"
    if isinstance(block, Paragraph):
        return escape(block.text)
    if isinstance(block, Bullets):
        return "\n".join(
            f"- {escape(name)}: {escape(text)}" if name else f"- {escape(text)}"
            for name, text in block.lines
        )
    if isinstance(block, Picture):
        return f"![{escape(block.alt)}]({block.path})"
    rows = [[_markdown_cell(cell) for cell in row] for row in block.rows]
    header = [escape(name) for name in block.header]
    return "\n".join(markdown_table(header, rows, words=block.words))


def _markdown_cell(cell: Cell) -> str:
    return f"[{escape(cell.label)}]({cell.path})" if isinstance(cell, Sound) else escape(cell)
