"""The report as a picture; needs matplotlib (the extra "evaluate")."""

from pathlib import Path
from typing import Any

from llama_omni.bench.tiny.hearing import COLUMNS
from llama_omni.bench.tiny.settings import SPLITS
from llama_omni.errors import MissingExtraError

COLOURS = {"test_seen": "#332288", "test_unseen": "#cc6677"}
LABELS = {"test_seen": "voices of the training", "test_unseen": "other voices"}
GREYS = ("#bbbbbb", "#88ccee", "#332288")


def plot(scores: dict[str, Any], path: Path, title: str) -> None:
    """Draw accuracy by intent and by voice, and word error rates by column.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "evaluate", "drawing the results") from error

    accuracy = scores["accuracy"]
    intents = sorted({name for split in SPLITS for name in accuracy[split]["gate_by_intent"]})
    figure = Figure(figsize=(13, max(4.5, 1.5 + 0.22 * len(intents))), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(5, 4, 3))
    for split in SPLITS:
        offset = 0.18 if split == SPLITS[0] else -0.18
        _dots(left, accuracy[split]["gate_by_intent"], intents, split, offset)
    left.set_title("Right answers by intent")
    voices = [
        (split, name) for split in SPLITS for name in sorted(accuracy[split]["gate_by_voice"])
    ]
    names = [name for _, name in voices]
    for split in SPLITS:
        _dots(middle, accuracy[split]["gate_by_voice"], names, split, 0.0)
    middle.set_title("Right answers by voice")
    for axes in (left, middle):
        axes.set(xlim=(-0.03, 1.03), xlabel="share of held-out questions")
        axes.grid(axis="x", alpha=0.3)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside lower center", ncols=2)
    _bars(right, scores["recognition"])
    figure.suptitle(title)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _dots(axes: Any, groups: dict[str, Any], names: list[str], split: str, offset: float) -> None:
    for name in names:
        if name in groups:
            estimate, height = groups[name], len(names) - 1 - names.index(name) + offset
            axes.plot([estimate["low"], estimate["high"]], [height] * 2, color=COLOURS[split])
            axes.plot(estimate["value"], height, "o", color=COLOURS[split], markersize=4)
    axes.plot([], [], "o-", color=COLOURS[split], label=LABELS[split])
    axes.set_yticks(range(len(names)), names[::-1], fontsize=8)


def _bars(axes: Any, recognition: dict[str, Any]) -> None:
    for place, (column, colour) in enumerate(zip(COLUMNS, GREYS, strict=True)):
        for group, found in enumerate(recognition.values()):
            estimate = found["columns"][column]
            if estimate is None:
                continue
            x = group + 0.27 * (place - 1)
            axes.bar(x, estimate["value"], width=0.25, color=colour)
            axes.plot([x, x], [estimate["low"], estimate["high"]], color="black", linewidth=1)
        axes.bar(0, 0, color=colour, label=column)
    axes.set_xticks(range(len(recognition)), [f"{name} LM" for name in recognition])
    axes.set(ylabel="word error rate", title="Recognised by PocketSphinx")
    axes.legend(frameon=False)
