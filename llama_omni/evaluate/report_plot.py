"""The trade-off of the chunk size as a picture; needs matplotlib (the extra "evaluate")."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llama_omni.errors import MissingExtraError
from llama_omni.evaluate.evaluated import Evaluated
from llama_omni.evaluate.published import GPT_4O_LATENCY_MS, STREAMING
from llama_omni.evaluate.records import Score

_OURS, _THEIRS, _QUOTED = "#332288", "#999933", "#aa4499"
_PANELS = (
    ("first_audio_ms", "latency, ms", [one.total_ms for one in STREAMING]),
    ("lagging_words", "lagging words", None),
    ("asr_wer", "ASR-WER, %", [one.asr_wer for one in STREAMING]),
    ("utmos", "UTMOS", [one.utmos for one in STREAMING]),
)


def plot_trade_off(found: Evaluated, path: Path) -> bool:
    """Draw latency, lagging words, ASR-WER and UTMOS against Omega; False: too few chunk sizes.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    spoken = [condition for condition in found.conditions if condition.mode == "s2sif"]
    panels = []
    for name, title, published in _PANELS:
        scores = [found.score(name, condition.name) for condition in spoken]
        if len(spoken) > 1 and all(one is not None and one.value is not None for one in scores):
            panels.append((name, title, published, scores))
    if not panels:
        return False
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "evaluate", "drawing the trade-off") from error
    places = _places([condition.chunk_size for condition in spoken])
    figure = Figure(figsize=(4.2 * len(panels), 4.0), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _draw(axes, places, panel)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside lower center", ncols=3)
    figure.suptitle(f"{found.system}, {found.run.get('set', {}).get('name', '')}")
    figure.savefig(path, dpi=120, metadata={"Software": None})
    return True


def _draw(axes: Any, places: dict[int | None, int], panel: tuple[Any, ...]) -> None:
    name, title, published, scores = panel
    sizes = [size for size in places if size in _sizes(scores)] or [*places]
    values = [score.value for score in scores]
    low = [score.value - (score.value if score.low is None else score.low) for score in scores]
    high = [(score.value if score.high is None else score.high) - score.value for score in scores]
    at = [places[size] for size in sizes[: len(values)]]
    axes.errorbar(at, values, yerr=(low, high), color=_OURS, marker="o", capsize=3, label="ours")
    if published is not None:
        rows = [(one.chunk_size, y) for one, y in zip(STREAMING, published, strict=True)]
        there = [(places[size], y) for size, y in rows if size in places]
        if there:
            x, y = zip(*there, strict=True)
            axes.plot(x, y, color=_THEIRS, marker="s", linestyle="--", label="paper (v2, L40, 8B)")
    if name == "first_audio_ms":
        line = {"color": _QUOTED, "linestyle": ":", "label": "GPT-4o, as the paper quotes it"}
        axes.axhline(GPT_4O_LATENCY_MS, **line)
        axes.set_yscale("log")
    axes.set_xticks([*places.values()], ["∞" if size is None else str(size) for size in places])
    axes.set(xlabel=r"chunk size $\Omega$, units", title=title)
    axes.spines[["top", "right"]].set_visible(False)


def _places(sizes: Sequence[int | None]) -> dict[int | None, int]:
    """Give each chunk size of ours its place on the axis, infinity last."""
    return {size: place for place, size in enumerate(sizes)}


def _sizes(scores: Sequence[Score]) -> set[int | None]:
    names = [score.condition.removeprefix("s2sif-") for score in scores]
    return {None if name == "inf" else int(name) for name in names}
