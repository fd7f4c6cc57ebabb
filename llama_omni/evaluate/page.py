"""A report as one HTML file that needs no network: pictures and sounds are inside it."""

import base64
import mimetypes
from collections.abc import Sequence
from html import escape
from pathlib import Path

from llama_omni.evaluate.document import (
    Block,
    Bullets,
    Cell,
    Heading,
    Paragraph,
    Picture,
    Sound,
    Table,
)

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --quiet: #8882; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }
h1 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1rem 0; }
th, td { border-bottom: 1px solid var(--line); padding: .35rem .7rem; text-align: right; }
th { position: sticky; top: 0; background: Canvas; vertical-align: bottom; }
th:first-child, td:first-child, .words th, .words td { text-align: left; vertical-align: top; }
tr.quoted { font-style: italic; background: var(--quiet); }
img { max-width: 100%; height: auto; background: #fff; border-radius: 6px; }
audio { height: 2rem; width: 15rem; }
li { overflow-wrap: anywhere; }
"""


def page(title: str, blocks: Sequence[Block], folder: Path) -> str:
    """Return a report as HTML.

    Args:
        title: of the window.
        blocks: the report.
        folder: that the paths of pictures and sounds start from; a file that is not there is named
            in its place.
    """
    body = "\n".join(_html(block, folder) for block in blocks)
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _html(block: Block, folder: Path) -> str:
    if isinstance(block, Heading):
        return f"<h{block.level}>{escape(block.text)}</h{block.level}>"
    if isinstance(block, Paragraph):
        return f"<p>{escape(block.text)}</p>"
    if isinstance(block, Bullets):
        named = ((f"<b>{escape(name)}</b>: " if name else "", text) for name, text in block.lines)
        return (
            "<ul>\n" + "\n".join(f"<li>{at}{escape(text)}</li>" for at, text in named) + "\n</ul>"
        )
    if isinstance(block, Picture):
        source = _inside(folder / block.path)
        if source is None:
            return f"<p>({escape(block.path)} is not there)</p>"
        return f'<img alt="{escape(block.alt)}" src="{source}">'
    return _table(block, folder)


def _table(table: Table, folder: Path) -> str:
    kind = "words" if table.words else "numbers"
    lines = [f'<div class="wide"><table class="{kind}">', "<thead>"]
    lines += ["<tr>" + "".join(f"<th>{escape(name)}</th>" for name in table.header) + "</tr>"]
    lines += ["</thead>", "<tbody>"]
    ours = len(table.rows) - table.quoted
    for number, row in enumerate(table.rows):
        start = '<tr class="quoted">' if number >= ours else "<tr>"
        lines.append(start + "".join(f"<td>{_cell(cell, folder)}</td>" for cell in row) + "</tr>")
    return "\n".join([*lines, "</tbody>", "</table></div>"])


def _cell(cell: Cell, folder: Path) -> str:
    if not isinstance(cell, Sound):
        return escape(cell)
    source = _inside(folder / cell.path)
    if source is None:
        return f"({escape(cell.path)} is not there)"
    label = escape(cell.label)
    return f'<audio controls preload="none" aria-label="{label}" src="{source}"></audio>'


def _inside(file: Path) -> str | None:
    """Return a file as a data URI; None where there is none."""
    if not file.is_file():
        return None
    kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode('ascii')}"
