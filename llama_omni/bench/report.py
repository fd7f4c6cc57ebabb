"""The result as JSON and as Markdown."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llama_omni.bench.first_audio import PHASES
from llama_omni.bench.machine import versions_line
from llama_omni.bench.settings import UNITS_PER_TOKEN, Spread
from llama_omni.errors import OutputError

NOTES = (
    f"Random weights: units are emitted on a fixed schedule of {UNITS_PER_TOKEN} a token, whatever "
    "the speech decoder says; all of its computation still runs.",
    "The model is told of no stop tokens, so chance never ends a reply early.",
    "The stand-in tokenizer spells letter by letter; a short system prompt keeps the prompt about "
    "as long as the released one.",
    "Every number is the median, with the lowest and the highest run in brackets.",
)


def check_folder(folder: Path) -> None:
    """Make the output folder, before anything is measured.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".bench").touch()
        (folder / ".bench").unlink()
    except OSError as error:
        raise OutputError(f"{folder} must be a writable folder, got {error.strerror}") from error


def write_report(result: dict[str, Any], folder: Path, name: str) -> None:
    """Write `<name>.json` and `<name>.md`."""
    text = json.dumps(result, indent=1, default=asdict)
    (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    (folder / f"{name}.md").write_text(markdown(result), encoding="utf-8")


def markdown(result: dict[str, Any]) -> str:
    """Return the result as a page of tables."""
    machine = result["machine"]
    where = f"{machine['gpu'] or machine['cpu']}, {machine['cores']} cores seen"
    lines = [
        f"# {result['preset']} on {machine['device']}, {machine['dtype']}",
        "",
        f"- Hardware: {where}, threads used: {machine['threads']}, {machine['memory_gib']} GiB, "
        f"{machine['system']}; load average at the end {machine['load_average']}",
        f"- Versions: {versions_line(machine)}",
        f"- Command: `{result['command']}`",
        f"- Date: {machine['date']}",
        "",
        *(f"- {note}" for note in NOTES),
    ]
    for section in (_load, _first_audio, _per_token, _speech_cost, _memory, _roofline):
        lines += ["", *section(result)]
    return "\n".join(lines) + "\n"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a Markdown table; all columns but the first are numbers."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return ["| " + " | ".join(row) + " |" for row in [header, rule, *rows]]


def ms(spread: Spread | None) -> str:
    """Show seconds as milliseconds, or say that nothing was measured."""
    if spread is None:
        return "not run"
    low, high = _digits(spread.low * 1e3), _digits(spread.high * 1e3)
    return f"{_digits(spread.median * 1e3)} [{low}, {high}]"


def times(spread: Spread) -> str:
    """Show a ratio."""
    return f"{spread.median:.2f} [{spread.low:.2f}, {spread.high:.2f}]"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _omega(size: int | None) -> str:
    return "infinity" if size is None else str(size)


def _load(result: dict[str, Any]) -> list[str]:
    load = result["load"]
    from_folder = "not run" if load["folder_s"] is None else f"{load['folder_s'].median:.2f} s"
    return [
        "## Load",
        "",
        f"Building random weights: {load['random_s']:.2f} s. Loading the same weights from a "
        f"native folder in the page cache: {from_folder}.",
    ]


def _first_audio(result: dict[str, Any]) -> list[str]:
    header = ["question, Omega", *(name.replace("_", " ") for name in PHASES), "first audio"]
    rows = [
        [
            f"{row['question_s']:g} s, {_omega(row['chunk_size'])}",
            *(_digits(row["phases_s"][name].median * 1e3) for name in PHASES),
            ms(row["first_audio_s"]),
        ]
        for row in result["first_audio"]
    ]
    return ["## (a) Time to first audio, ms", "", *table(header, rows)]


def _per_token(result: dict[str, Any]) -> list[str]:
    measured = result["per_token"]
    growth = measured["growth"]
    rows = []
    for row in measured["rows"]:
        offline = row["offline_s"]
        over = "" if offline is None else f"{offline.median / row['streaming_s'].median:.1f}x"
        rows.append(
            [
                str(row["position"]),
                ms(row["streaming_s"]),
                ms(row["written_s"]),
                ms(offline),
                over,
            ]
        )
    header = ["token", "streaming", "of it written", "offline", "offline over streaming"]
    return [
        "## (b) One token at a position of the reply, ms",
        "",
        *table(header, rows),
        "",
        f"Streaming at {growth['to']} over {growth['from']}: {times(growth['ratio'])} "
        f"(target at 8b on a GPU: at most 1.15). Behind {measured['prompt_positions']} positions "
        "of prompt.",
    ]


def _speech_cost(result: dict[str, Any]) -> list[str]:
    measured = result["speech_cost"]
    rows = [
        [
            row["way"],
            ms(row["total_s"]),
            ms(row["decode_s"]),
            ms(row["vocode_s"]),
            times(row["over_written"]),
        ]
        for row in measured["rows"]
    ]
    same = "the same tokens each time" if measured["same_tokens"] else "NOT the same tokens"
    return [
        "## (c) What speech costs: S2SIF over S2TIF",
        "",
        *table(["reply", "total, ms", "steps, ms", "vocoder, ms", "over written"], rows),
        "",
        f"{measured['reply_tokens']} tokens ({same}), {measured['units']} units, "
        f"{measured['audio_s']:.1f} s of sound. Target: at most 1.08; the paper reports 1.28.",
    ]


def _memory(result: dict[str, Any]) -> list[str]:
    memory = result["memory"]
    weights, caches, peak = memory["weights"], memory["cache_per_token"], memory["peak"]
    rows = [[f"weights: {name}", f"{size / 2**20:.1f} MiB"] for name, size in weights.items()]
    names = {
        "llm": "LLM cache, a token",
        "speech": "speech decoder cache, a token",
        "speech_full": "the same, every frame kept in every layer",
        "place_table": "place table, a token of the longest reply (shared)",
    }
    rows += [[title, f"{caches[key] / 2**10:.2f} KiB"] for key, title in names.items()]
    peaks = {
        "resident_after_load": "peak resident, after loading",
        "resident_after_reply": "peak resident, after a reply",
        "cuda_allocated_in_reply": "peak CUDA memory in a reply",
    }
    rows += [[t, f"{peak[key] / 2**20:.0f} MiB"] for key, t in peaks.items() if peak[key]]
    return ["## (d) Memory", "", *table(["what", "size"], rows)]


def _roofline(result: dict[str, Any]) -> list[str]:
    measured = result["roofline"]
    rates = measured["rates"]
    rows = [
        [
            row["phase"],
            f"{row['flops'] / 1e9:.3g}",
            f"{row['bytes'] / 1e6:.3g}",
            _digits(row["floor_s"] * 1e3),
            _digits(row["measured_s"] * 1e3),
            f"{row['over_floor']:.1f}x",
        ]
        for row in measured["rows"]
    ]
    return [
        "## Roofline",
        "",
        f"Measured on this device in this run: {rates['flops_per_s'] / 1e12:.3g} TFLOP/s, "
        f"{rates['bytes_per_s'] / 1e9:.3g} GB/s.",
        "",
        *table(["phase", "GFLOP", "MB", "floor, ms", "measured, ms", "over floor"], rows),
    ]
