"""The plots of a data set's card."""

import importlib.util
import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from llama_omni.data.statistics import SplitStatistics
from llama_omni.errors import MissingExtraError
from llama_omni.files import write_bytes

_MOST = 30  # bars


def check_plots() -> None:
    """Refuse to begin a build whose card could not be written.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError("matplotlib", "data", "a data set's card")


def write_plots(
    folder: Path, found: dict[str, SplitStatistics], reasons: dict[str, int]
) -> list[Path]:
    """Write plots of durations, rates, voices and rejects; return those that there are.

    Raises:
        OutputError: A file cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    check_plots()
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    splits = list(found.values())
    plots: list[tuple[str, Any]] = []

    def add(name: str, panels: list[tuple[str, list[float]]]) -> None:
        panels = [(label, values) for label, values in panels if values]
        if panels:
            figure = Figure(figsize=(4 * len(panels), 3), layout="constrained")
            for axes, (label, values) in zip(
                np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True
            ):
                axes.hist(values, bins=40)
                axes.set(xlabel=label, ylabel="records")
            plots.append((name, figure))

    def add_bars(name: str, counts: dict[str, int]) -> None:
        if counts:
            shown = list(counts.items())[:_MOST][::-1]
            figure = Figure(figsize=(8, 0.8 + 0.25 * len(shown)), layout="constrained")
            axes = figure.subplots()
            axes.barh([_short(label) for label, _ in shown], [count for _, count in shown])
            axes.set(xlabel="records")
            plots.append((name, figure))

    add(
        "durations",
        [
            ("seconds of a question", [x for split in splits for x in split.question_s]),
            ("seconds of an answer", [x for split in splits for x in split.answer_s]),
        ],
    )
    add(
        "rates",
        [
            ("units a second", [x for split in splits for x in split.units_per_s]),
            ("tokens a second", [x for split in splits for x in split.tokens_per_s]),
            ("units a token", [x for split in splits for x in split.units_per_token]),
        ],
    )
    voices: Counter[str] = Counter()
    for split in splits:
        voices.update(split.question_voices)
    add_bars("voices", dict(sorted(voices.items(), key=lambda item: (-item[1], item[0]))))
    add_bars("rejects", reasons)
    paths = []
    for name, figure in plots:
        picture = io.BytesIO()
        # Without the version in it, the picture depends on its numbers alone.
        figure.savefig(picture, format="png", dpi=80, metadata={"Software": None})
        paths.append(folder / f"{name}.png")
        write_bytes(paths[-1], picture.getvalue())
    return paths


def _short(label: str) -> str:
    return label if len(label) <= 60 else f"{label[:57]}..."
