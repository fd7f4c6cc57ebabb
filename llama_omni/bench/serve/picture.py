"""The load that was measured, as a picture; needs matplotlib (the extra "evaluate")."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from llama_omni.bench.serve.numbers import Row
from llama_omni.errors import MissingExtraError

COLOURS = {True: "#332288", False: "#cc6677"}
LABELS = {True: "speculation on", False: "speculation off"}


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw first sound, late pieces, throughput and speculation against the number of clients.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "evaluate", "drawing the load") from error

    rows, settings = result["rows"], result["settings"]
    figure = Figure(figsize=(12, 8), layout="constrained")
    (waits, late), (sound, tokens) = figure.subplots(2, 2)
    for quantile, style in (("p50", "-"), ("p95", "--")):
        for key, marker in (("after_speech", "o"), ("after_turn", "s")):
            _draw(
                waits,
                rows,
                lambda row, key=key, quantile=quantile: _ms(row, key, quantile),
                style=style,
                marker=marker,
                label=f"{key.replace('_', ' ')}, {quantile}",
            )
    waits.axhline(1e3 * settings["max_first_audio_s"], color="#999999", linewidth=0.8)
    waits.set(title="Time to first audio", ylabel="ms", yscale="log")
    waits.yaxis.set_major_formatter("{x:,.0f}")
    _draw(late, rows, lambda row: _percent(row["late_share"]), label="pieces that came late")
    _draw(
        late,
        rows,
        lambda row: _percent(row["stalled_share"]),
        style="--",
        marker="s",
        label="answers with a gap",
    )
    late.axhline(100 * settings["max_late"], color="#999999", linewidth=0.8)
    late.set(title="Late for playback", ylabel="%")
    _draw(sound, rows, lambda row: row["throughput"], label="throughput")
    sound.set(title="Seconds of answers a second, all clients", ylabel="s / s")
    on = [row for row in rows if row["speculation"]]
    _draw(tokens, on, lambda row: _percent(row["speculated"]["hit_rate"]), label="hit rate")
    _draw(
        tokens,
        on,
        lambda row: _percent(row["speculated"]["wasted_share"]),
        style="--",
        marker="s",
        label="tokens wasted",
    )
    tokens.set(title="Speculation", ylabel="%")
    for axes in (waits, late, sound, tokens):
        clients = sorted({row["clients"] for row in rows})
        axes.set_xscale("log", base=2)
        axes.set_xticks(clients, [str(number) for number in clients])
        axes.minorticks_off()
        axes.set_xlabel("clients at once")
        axes.set_ylim(bottom=None if axes is waits else 0)
        axes.grid(alpha=0.3)
        axes.legend(
            frameon=False, fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.14)
        )
    machine = result["machine"]
    title = f"{result['name']}, {machine['gpu'] or machine['cpu']}, {machine['cores']} cores"
    figure.suptitle(title)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _draw(
    axes: Any,
    rows: list[Row],
    value: Callable[[Row], float | None],
    *,
    label: str,
    style: str = "-",
    marker: str = "o",
) -> None:
    for mode in (True, False):
        found = [(row["clients"], value(row)) for row in rows if row["speculation"] is mode]
        points = [(clients, height) for clients, height in found if height is not None]
        if points:
            x, y = zip(*points, strict=True)
            name = f"{label}, {LABELS[mode]}"
            axes.plot(x, y, style, marker=marker, color=COLOURS[mode], label=name, markersize=5)


def _ms(row: Row, key: str, quantile: str) -> float | None:
    found = row[f"first_audio_{key}_s"]
    return None if found is None else 1e3 * found[quantile]


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value
