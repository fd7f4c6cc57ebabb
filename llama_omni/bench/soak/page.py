"""A soak as a page and a picture."""

from pathlib import Path
from typing import Any

from llama_omni.bench.soak.verdict import PROCESSES
from llama_omni.errors import MissingExtraError

_COLOURS = {"server": "#332288", "engine": "#cc6677"}
_HELD = {True: "yes", False: "**no**", None: "-"}


def markdown(result: dict[str, Any]) -> str:
    """Return the page."""
    seen, settings, machine = result["seen"], result["settings"], result["machine"]
    versions = ", ".join(f"{name} {value}" for name, value in machine["versions"].items() if value)
    lines = [
        "# A soak of the server",
        "",
        f"- {settings['seconds']:g} s, {settings['visitors']} visitors at a time, seed "
        f"{settings['seed']}: they come and go by chance, write, speak, interrupt, cancel, delete "
        "and truncate",
        f"- Server: `llama-omni serve {' '.join(settings['serve'])}`, the model in the package",
        f"- Machine: {machine['cpu']}, {machine['cores']} cores seen, {machine['memory_gib']} GiB; "
        f"load average at the end {machine['load_average']}",
        f"- Versions: {versions}",
        f"- Command: `{result['command']}`",
        f"- Date: {machine['date']}",
        "",
        "| rule | found | held |",
        "| --- | --- | --- |",
        *(f"| {r['rule']} | {r['found']} | {_HELD[r['held']]} |" for r in result["verdict"]),
        "",
        f"Seen: {seen['frames']} frames.",
        "",
        "| what | how often |",
        "| --- | --- |",
    ]
    for title, key in (
        ("session ended", "sessions"),
        ("visitor's act", "done"),
        ("response", "responses"),
        ("refused by chance", "errors"),
    ):
        lines += [f"| {title}: {name} | {seen[key][name]} |" for name in sorted(seen[key])]
    if seen["broken"] or seen["log_errors"]:
        lines += ["", *(f"- {line}" for line in (*seen["broken"], *seen["log_errors"][:20]))]
    return "\n".join(lines)


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw resident memory over time, and how many were there.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "evaluate", "drawing the soak") from error

    samples = [*result["samples"], result["empty_after"]]
    minutes = [sample["at_s"] / 60 for sample in samples]
    figure = Figure(figsize=(9, 6), layout="constrained")
    upper, middle, lower = figure.subplots(3, 1, sharex=True, height_ratios=(3, 2, 2))
    for process in PROCESSES:
        resident = [sample[process]["rss"] / 2**20 for sample in samples]
        upper.plot(minutes, resident, color=_COLOURS[process], label=process)
        for what, style in (("fds", "-"), ("threads", ":")):
            counts = [sample[process][what] for sample in samples]
            label = f"{process}: {'open files' if what == 'fds' else what}"
            middle.plot(minutes, counts, style, color=_COLOURS[process], label=label)
    upper.set(ylabel="resident memory, MiB", ylim=(0, None))
    middle.set(ylabel="count", ylim=(0, None))
    lower.plot(minutes, [s["sessions_open"] for s in samples], color="#332288", label="sessions")
    lower.plot(minutes, [s["tasks"] for s in samples], color="#44aa99", label="tasks")
    cache = [sample["engine_cache_bytes"] / 2**20 for sample in samples]
    lower.plot(minutes, cache, color="#ddaa33", label="caches, MiB")
    lower.set(xlabel="minutes", ylabel="count, MiB", ylim=(0, None))
    for axes in (upper, middle, lower):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8, ncols=2)
    figure.suptitle(f"{result['settings']['visitors']} visitors at a time, then none")
    figure.savefig(path, dpi=110, metadata={"Software": None})
