"""Growing chunks against fixed ones, as JSON, as a table and as a picture."""

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from llama_omni.bench.report import table
from llama_omni.bench.serve.numbers import Row, percentiles
from llama_omni.bench.serve.page import heading
from llama_omni.bench.settings import Spread
from llama_omni.errors import MissingExtraError

logger = logging.getLogger(__name__)

COLOURS = ("#332288", "#88ccee", "#44aa99", "#cc6677")

NOTES = (
    "Random weights, replies of fixed length, units on the schedule of ADR 0008. Every listener "
    "plays at once, without a start-up buffer.",
    "First audio counts from the question's arrival; p50 and p95 over all replies of all rounds. "
    "All other numbers are the median round's, with the lowest and highest in brackets.",
    "A piece is late where all that came before it had been played when it came.",
    "Frames: what the vocoder synthesised over what was given, 1 where nothing is made twice; the "
    "rest is context, look-ahead, and padding of shorter rows in a shared call.",
)


def write(result: dict[str, Any], folder: Path | None) -> None:
    """Show the page; write `<name>.json`, `.md` and, with matplotlib, `.png`."""
    page = markdown(result)
    Console().out(page, highlight=False)
    if folder is None:
        return
    text = json.dumps(result, indent=1)
    (folder / f"{result['name']}.json").write_text(text + "\n", encoding="utf-8")
    (folder / f"{result['name']}.md").write_text(page, encoding="utf-8")
    try:
        plot(result, folder / f"{result['name']}.png")
    except MissingExtraError as error:
        logger.info("plot skipped reason=%s", error)


def markdown(result: dict[str, Any]) -> str:
    """Return the page."""
    settings = result["settings"]
    header = ["conversations, chunks", "first audio p50, ms", "p95, ms", "vocoder calls a reply"]
    header += ["vocoder s / s of sound", "frames", "late pieces, %", "stall, s", "throughput"]
    body = []
    for number in settings["conversations"]:
        for policy in result["policies"]:
            rows = _of(result["rows"], number, policy["name"])
            first = _first_audio_ms(rows)
            body.append(
                [
                    f"{number}, {policy['name']}",
                    f"{first['p50']:.0f}",
                    f"{first['p95']:.0f}",
                    *(shown(Spread.of([value(row) for row in rows])) for value in VALUES.values()),
                ]
            )
    lines = [
        f"# Growing chunks: {result['name'].removeprefix('chunk-growth-')}",
        "",
        *heading(result, result["machine"]),
        f"- Rounds: {settings['rounds']}; questions of {settings['question_s']:g} s, one every "
        f"{settings['stagger_s']:g} s; replies of {settings['tokens']} tokens",
        "",
        *(f"- {note}" for note in NOTES),
        "",
        *table(header, body),
    ]
    return "\n".join(lines) + "\n"


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw first sound, vocoder work and late pieces of each policy.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "evaluate", "drawing the chunks") from error

    numbers = result["settings"]["conversations"]
    figure = Figure(figsize=(13, 4.6), layout="constrained")
    panels: list[tuple[str, str, Callable[[Sequence[Row]], float]]] = [
        ("Time to first audio, p50", "ms", lambda rows: _first_audio_ms(rows)["p50"]),
        ("Vocoder calls", "a reply", lambda rows: median(map(VALUES["calls"], rows))),
        ("Vocoder time", "s / s of sound", lambda rows: median(map(VALUES["work"], rows))),
        ("Late pieces", "%", lambda rows: median(map(VALUES["late"], rows))),
    ]
    for axes, (title, unit, value) in zip(figure.subplots(1, 4), panels, strict=True):
        for place, policy in enumerate(result["policies"]):
            heights = [value(_of(result["rows"], number, policy["name"])) for number in numbers]
            offset = 0.2 * (place - (len(result["policies"]) - 1) / 2)
            axes.bar(
                [index + offset for index in range(len(numbers))],
                heights,
                width=0.18,
                color=COLOURS[place % len(COLOURS)],
                label=policy["name"],
            )
        axes.set_xticks(range(len(numbers)), [str(number) for number in numbers])
        axes.set(title=title, ylabel=unit, xlabel="conversations at once")
        axes.grid(axis="y", alpha=0.3)
        axes.margins(y=0.1)
        axes.set_ylim(bottom=0)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside lower center", ncols=len(labels))
    machine = result["machine"]
    figure.suptitle(f"{result['name']}, random weights, {machine['gpu'] or machine['cpu']}")
    figure.savefig(path, dpi=110, metadata={"Software": None})


def shown(spread: Spread) -> str:
    """Show a number of several rounds."""
    return f"{spread.median:.2f} [{spread.low:.2f}, {spread.high:.2f}]"


def _of(rows: Sequence[Row], number: int, policy: str) -> list[Row]:
    return [row for row in rows if row["conversations"] == number and row["policy"] == policy]


def _first_audio_ms(rows: Sequence[Row]) -> Row:
    found = percentiles([1e3 * value for row in rows for value in row["first_audio_s"]])
    assert found is not None, "a benchmark's reply holds sound"
    return found


def _late_percent(row: Row) -> float:
    followed = row["pieces"] - row["conversations"]
    return 100 * row["late"] / followed if followed else 0.0


VALUES: dict[str, Callable[[Row], float]] = {
    "calls": lambda row: row["vocoder_calls"] / row["conversations"],
    "work": lambda row: row["vocoder_s"] / row["sound_s"],
    "frames": lambda row: row["frames"] / row["frames_given"],
    "late": _late_percent,
    "stall": lambda row: row["stall_s"],
    "throughput": lambda row: row["sound_s"] / row["wall_s"],
}
