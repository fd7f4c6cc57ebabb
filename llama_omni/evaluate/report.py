"""One report of one or several evaluated systems: Markdown, HTML in one file, and a picture.

The tables are numbered as in the paper's first version.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llama_omni.errors import InputError, MissingExtraError, OutputError
from llama_omni.evaluate.document import (
    Block,
    Bullets,
    Heading,
    Paragraph,
    Picture,
    markdown,
)
from llama_omni.evaluate.evaluated import Evaluated, read_evaluated
from llama_omni.evaluate.page import page
from llama_omni.evaluate.published import GPT_4O_LATENCY_MS, V1_STREAMING
from llama_omni.evaluate.report_cases import case_study, failures
from llama_omni.evaluate.report_plot import plot_trade_off
from llama_omni.evaluate.report_tables import (
    absent,
    all_scores,
    categories,
    table_1,
    table_2,
    table_3,
)

logger = logging.getLogger(__name__)

CASES = 6


def write_report(
    folders: Path | Sequence[Path], output: Path | None = None, *, title: str = ""
) -> Path:
    """Write `report.md`, `report.html` and the pictures.

    Args:
        folders: results folders of systems that were asked the same set.
        output: where they go; None: beside the results of the one system.
        title: of the report; "": the systems and the set.

    Returns:
        The HTML file.

    Raises:
        InputError: a folder holds no results, or the sets differ.
        OutputError: something cannot be written.
    """
    folders = [folders] if isinstance(folders, Path) else [*folders]
    if not folders:
        raise InputError("a report needs at least one results folder, got none")
    systems = [read_evaluated(folder) for folder in folders]
    sets = {_set(found).get("fingerprint") for found in systems}
    if len(sets) > 1:
        names = ", ".join(f"{found.folder}: {_set(found).get('name')}" for found in systems)
        raise InputError(f"all systems of a report must have been asked the same set, got {names}")
    if output is None:
        if len(folders) > 1:
            raise InputError("a report of several systems needs a folder to go to")
        output = folders[0]
    name = _set(systems[0]).get("name", "")
    title = title or f"{', '.join(found.system for found in systems)} on {name}"
    try:
        output.mkdir(parents=True, exist_ok=True)
        blocks = _blocks(systems, output, title)
        (output / "report.md").write_text(markdown(blocks), encoding="utf-8")
        (output / "report.html").write_text(page(title, blocks, output), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write the report into {output}: {error.strerror}") from error
    return output / "report.html"


def _blocks(systems: Sequence[Evaluated], output: Path, title: str) -> list[Block]:
    blocks: list[Block] = [Heading(title, 1), Paragraph(_INTRODUCTION)]
    for found in systems:
        blocks += [Bullets(_facts(found))]
    blocks += [Heading("Table 1: systems"), Paragraph(_TABLE_1), table_1(systems)]
    for number, found in enumerate(systems):
        spoken = [condition for condition in found.conditions if condition.mode == "s2sif"]
        if spoken:
            of = f" ({found.system})" if len(systems) > 1 else ""
            blocks += [Heading(f"Table 2: the chunk size{of}"), Paragraph(_TABLE_2)]
            blocks += [*_picture(found, output, number), table_2(found)]
    blocks += [Heading("Table 3: decoding"), Paragraph(_TABLE_3), table_3(systems)]
    cases = case_study(systems, count=CASES, output=output)
    blocks += [Heading("Table 4: cases"), cases]
    for found in systems:
        table = categories(found)
        if table.rows:
            blocks += [Heading(f"Right answers of {found.system} by category")]
            blocks += [Paragraph(_CATEGORIES), table]
    for found in systems:
        blocks += [Heading(f"All scores of {found.system}"), all_scores(found)]
    missing = absent(systems)
    if missing:
        blocks += [Heading("Not measured"), Bullets(missing)]
    for found in systems:
        blocks += [Heading(f"Failures of {found.system}"), *failures(found, output)]
    return blocks


def _picture(found: Evaluated, output: Path, number: int) -> list[Block]:
    file = output / (f"trade-off-{number + 1}.png" if number else "trade-off.png")
    try:
        if plot_trade_off(found, file):
            return [Picture(file.name, f"latency and quality of {found.system} by chunk size")]
    except MissingExtraError as error:
        logger.warning("plot skipped reason=%s", error)
    return []


def _facts(found: Evaluated) -> list[tuple[str, str]]:
    """How these results were made, as far as the run says."""
    run, machine = found.run, found.run.get("machine") or {}
    versions = machine.get("versions") or {}
    lines = [
        ("System", found.system),
        ("Set", f"{_set(found).get('name', '')}, {len(found.items)} items"),
        ("Asked at a time", _together(found)),
        ("Command", str(run.get("command", ""))),
        ("Hardware", str(machine.get("gpu") or machine.get("cpu") or "")),
        ("Versions", ", ".join(f"{name} {value}" for name, value in versions.items() if value)),
        ("Date", str(machine.get("date", ""))),
    ]
    notes = [("", str(note)) for note in _set(found).get("notes") or ()]
    return [(name, text) for name, text in lines if text] + notes


def _together(found: Evaluated) -> str:
    """Say how many were asked at a time, where times are other than those of one alone."""
    most = max((row.batch for row in found.rows.values()), default=1)
    return "" if most < 2 else f"{most}; times hold the wait for each other, so are no latencies"


def _set(found: Evaluated) -> Mapping[str, Any]:
    said = found.run.get("set")
    return said if isinstance(said, Mapping) else {"name": str(said or "")}


_INTRODUCTION = (
    "In brackets: 95 % bootstrap intervals over items; one without width says that all items here "
    "agree, not that others would. Rows marked as the paper's are quoted, and "
    "were measured by its authors with their models, judges and machines: on another set or with "
    "another judge they are no comparison."
)
_TABLE_1 = (
    "Omega is infinite where that was asked, else the largest chunk size. S2TIF is judged by its "
    "text, S2SIF by the transcript of its speech."
)
_TABLE_2 = (
    "Latency is the time from the complete question to the first sound; it and its parts are means "
    "over items. The paper's rows were measured on one L40 with the 8B model, on its own set. "
    f"{V1_STREAMING}. GPT-4o's {GPT_4O_LATENCY_MS:.0f} ms are quoted by the paper, not measured."
)
_CATEGORIES = (
    "Per cent right in text, and as recognised in the speech; in brackets of how many replies."
)
_TABLE_3 = "Seconds from the complete question to the complete reply."
