"""The result as a picture; needs matplotlib (the extra "evaluate")."""

from pathlib import Path
from typing import Any

from llama_omni.bench.first_audio import PHASES
from llama_omni.errors import MissingExtraError

COLOURS = ("#332288", "#88ccee", "#44aa99", "#117733", "#ddcc77", "#cc6677", "#aa4499")


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw seconds per token against position, and phases against Omega.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "evaluate", "drawing the benchmarks") from error

    machine = result["machine"]
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(5, 4.4, 1.3))
    _draw_per_token(left, result["per_token"])
    question_s = result["first_audio"][0]["question_s"]
    rows = [row for row in result["first_audio"] if row["question_s"] == question_s]
    _draw_phases(middle, [row for row in rows if row["chunk_size"] is not None])
    _draw_phases(right, [row for row in rows if row["chunk_size"] is None])
    middle.set(xlabel=r"chunk size $\Omega$, units", ylabel="ms")
    middle.set_title(f"Time to first audio, question of {question_s:g} s")
    right.set_title("offline")
    handles, labels = middle.get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], frameon=False, loc="outside right center")
    threads = f"{machine['threads']} thread{'s' * (machine['threads'] > 1)}"
    where = machine["gpu"] or f"{machine['cpu']}, {threads}"
    figure.suptitle(f"{result['preset']}, random weights, {machine['dtype']}, {where}")
    figure.savefig(path, dpi=120)


def _draw_per_token(axes: Any, per_token: dict[str, Any]) -> None:
    from matplotlib.ticker import LogLocator

    series = {
        "offline_s": ("offline: all frames again", COLOURS[5], "s"),
        "streaming_s": ("streaming", COLOURS[0], "o"),
        "written_s": ("streaming, written only", COLOURS[2], "^"),
    }
    for key, (label, colour, marker) in series.items():
        rows = [row for row in per_token["rows"] if row[key] is not None]
        x = [row["position"] for row in rows]
        middle = [row[key].median * 1e3 for row in rows]
        low = [(row[key].median - row[key].low) * 1e3 for row in rows]
        high = [(row[key].high - row[key].median) * 1e3 for row in rows]
        axes.errorbar(
            x, middle, yerr=(low, high), label=label, color=colour, marker=marker, capsize=3
        )
    positions = [row["position"] for row in per_token["rows"]]
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(positions, [f"{position:,}" for position in positions])
    axes.minorticks_off()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set(xlabel="token of the reply", ylabel="ms per token", title="One token")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)


def _draw_phases(axes: Any, rows: list[dict[str, Any]]) -> None:
    """Stack the phases of each chunk size; infinity, much slower, has axes of its own."""
    bottoms = [0.0] * len(rows)
    for phase, colour in zip(PHASES, COLOURS, strict=True):
        heights = [row["phases_s"][phase].median * 1e3 for row in rows]
        label = phase.replace("_", " ")
        axes.bar(range(len(rows)), heights, bottom=bottoms, color=colour, label=label, width=0.7)
        bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]
    for index, (row, top) in enumerate(zip(rows, bottoms, strict=True)):
        total = f"{row['first_audio_s'].median * 1e3:.0f}"
        axes.annotate(total, (index, top), (0, 3), textcoords="offset points", ha="center")
    names = [r"$\infty$" if row["chunk_size"] is None else str(row["chunk_size"]) for row in rows]
    axes.set_xticks(range(len(rows)), names)
    axes.set_xlim(-0.6, len(rows) - 0.4)
    axes.margins(y=0.08)
