"""The load that was measured, as JSON, as tables and as a picture."""

import json
import logging
from pathlib import Path
from typing import Any

from rich.console import Console

from llama_omni.bench.report import table
from llama_omni.bench.serve.numbers import Row
from llama_omni.bench.serve.picture import plot
from llama_omni.errors import MissingExtraError

logger = logging.getLogger(__name__)

NOTES = (
    "A client's microphone never stops: sound leaves in pieces of random length as it would be "
    "recorded, silence too. After the last sound of an answer it waits a moment and asks again.",
    "After speech: from the true end of the voice in the sent sound to the first piece of the "
    "answer, at the client. After the turn: from the client's receipt of "
    "`input_audio_buffer.speech_stopped` (directly: from when the turn's end is known) to the same "
    "piece. Every piece counts as heard when it has come whole.",
    "A piece is late where all that came before it had been played when it came; there is no "
    "start-up buffer, and the first piece of an answer is never late. Stall: seconds of such gaps.",
    "Real-time factor: from the end of the turn to the last piece, over the seconds of the answer. "
    "Throughput: seconds of answers a second, of all clients together.",
    "Hit rate: replies begun at a pause that became the answer. Wasted: tokens of replies that "
    "were given up, of all tokens made.",
)


def write(result: dict[str, Any], folder: Path | None) -> None:
    """Show the page; write `<name>.json`, `.md` and, with matplotlib, `.png`."""
    page = markdown(result)
    Console().out(page, highlight=False)
    if folder is None:
        return
    rows = [{k: v for k, v in row.items() if k != "each"} for row in result["rows"]]
    text = json.dumps({**result, "rows": rows}, indent=1)
    (folder / f"{result['name']}.json").write_text(text + "\n", encoding="utf-8")
    (folder / f"{result['name']}.md").write_text(page, encoding="utf-8")
    try:
        plot(result, folder / f"{result['name']}.png")
    except MissingExtraError as error:
        logger.info("plot skipped reason=%s", error)


def markdown(result: dict[str, Any]) -> str:
    """Return the page."""
    machine, rows = result["machine"], result["rows"]
    how = "driven directly" if result["subject"]["direct"] else "over WebSockets"
    lines = [f"# Load: {result['name'].removeprefix('serve-load-')}, {how}", ""]
    lines += [*heading(result, machine), f"- Spoken questions: {result['questions']}"]
    lines += ["", *(f"- {note}" for note in NOTES), "", "## Capacity", ""]
    for mode in (True, False):
        lines += [_capacity(mode, [row for row in rows if row["speculation"] is mode])]
    lines += ["", "## Time to first audio, ms", "", *_first_audio(rows)]
    lines += ["", "## Playback", "", *_playback(rows)]
    lines += ["", "## Speculation", "", *_speculation(rows)]
    lines += ["", "## Turns, and the machinery around them", "", *_turns(rows)]
    return "\n".join(lines) + "\n"


def heading(result: dict[str, Any], machine: dict[str, Any]) -> list[str]:
    """Return the lines that say what was measured on, with what, and when."""
    versions = ", ".join(f"{name} {value}" for name, value in machine["versions"].items() if value)
    return [
        f"- Hardware: {machine['gpu'] or machine['cpu']}, {machine['cores']} cores seen, threads "
        f"of the engine: {machine['threads']}, {machine['memory_gib']} GiB, {machine['system']}; "
        f"load average at the end {machine['load_average']}",
        f"- Versions: {versions}",
        f"- Command: `{result['command']}`",
        f"- Date: {machine['date']}",
    ]


def _capacity(mode: bool, rows: list[Row]) -> str:
    name = f"Speculation {'on' if mode else 'off'}"
    if not rows:
        return f"- {name}: not run"
    held = [row["clients"] for row in rows if not row["saturated"]]
    most = f"{max(held)} clients at once" if held else "not even the fewest clients"
    full = next((row for row in rows if row["saturated"]), None)
    if full is None:
        return f"- {name}: {most}, the most that were tried."
    return f"- {name}: {most}; at {full['clients']}, {full['saturated']}."


def _first_audio(rows: list[Row]) -> list[str]:
    header = ["clients, speculation", "answers", "after speech p50", "p95", "after turn p50", "p95"]
    body = []
    for row in rows:
        speech, turn = row["first_audio_after_speech_s"], row["first_audio_after_turn_s"]
        body.append(
            [_who(row), str(row["answered"])]
            + [_ms(found, name) for found in (speech, turn) for name in ("p50", "p95")]
        )
    return table(header, body)


def _playback(rows: list[Row]) -> list[str]:
    header = ["clients, speculation", "pieces", "late", "late, %", "answers with a gap, %"]
    header += ["stall, s", "sound, s", "real-time factor p50", "p95", "throughput"]
    body = [
        [
            _who(row),
            str(row["pieces"]),
            str(row["late"]),
            _percent(row["late_share"]),
            _percent(row["stalled_share"]),
            f"{row['stall_s']:.2f}",
            f"{row['sound_s']:.0f}",
            *(_plain(row["real_time_factor"], name) for name in ("p50", "p95")),
            f"{row['throughput']:.2f}",
        ]
        for row in rows
    ]
    return table(header, body)


def _speculation(rows: list[Row]) -> list[str]:
    header = ["clients, speculation", "begun", "used", "dropped", "left out", "hit rate, %"]
    header += ["tokens wasted, %"]
    body = []
    for row in rows:
        made = row["speculated"]
        counts = [str(made[name]) for name in ("begun", "used", "dropped", "left_out")]
        shares = [_percent(made["hit_rate"]), _percent(made["wasted_share"])]
        body.append([_who(row), *counts, *shares])
    return table(header, body)


def _turns(rows: list[Row]) -> list[str]:
    header = ["clients, speculation", "turns", "refused", "failed", "unanswered", "begun too early"]
    header += ["client late p95, ms", "/healthz p95, ms", "loop lag p95, ms", "why"]
    body = []
    for row in rows:
        lag = row.get("loop_lag_s")
        body.append(
            [_who(row)]
            + [str(row[name]) for name in ("turns", "refused", "failed", "unanswered", "early")]
            + [_ms(row["client_lag_s"], "p95"), _ms(row.get("knock_s"), "p95"), _ms(lag, "p95_s")]
            + [", ".join(f"{why}: {count}" for why, count in row["why"].items()) or "-"]
        )
    return table(header, body)


def _who(row: Row) -> str:
    return f"{row['clients']}, {'on' if row['speculation'] else 'off'}"


def _ms(found: Row | None, name: str) -> str:
    value = None if found is None else found[name]
    return "-" if value is None else f"{1e3 * value:.0f}"


def _plain(found: Row | None, name: str) -> str:
    return "-" if found is None else f"{found[name]:.2f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
