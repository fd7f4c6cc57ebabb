"""Turns of many clients as one row of numbers, and whether they say that a device is full."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from llama_omni.bench.serve.settings import LoadSettings
from llama_omni.bench.serve.turns import Turn

QUANTILES = (50, 95)
Row = dict[str, Any]


def percentiles(values: Sequence[float]) -> Row | None:
    """Return the quantiles of some values, between the two nearest; None of none."""
    if not values:
        return None
    found = np.percentile(np.asarray(values, dtype=np.float64), QUANTILES)
    return {f"p{q}": float(value) for q, value in zip(QUANTILES, found, strict=True)}


def share(part: float | int, whole: float | int) -> float | None:
    """Return a part of a whole; None where there is no whole."""
    return part / whole if whole else None


def summarise(turns: Sequence[Turn], *, wall_s: float) -> Row:
    """Return the numbers of one N.

    Args:
        turns: of all clients.
        wall_s: from the first client's start to the last one's end.
    """
    heard = [turn for turn in turns if turn.first_audio_s is not None]
    first = [turn.first_audio_s for turn in heard if turn.first_audio_s is not None]
    waits = [
        turn.first_audio_s - turn.stopped_s
        for turn in heard
        if turn.first_audio_s is not None and turn.stopped_s is not None
    ]
    made = [
        (turn.last_audio_s - turn.stopped_s) / turn.sound_s
        for turn in heard
        if turn.last_audio_s is not None and turn.stopped_s is not None and turn.sound_s
    ]
    followed = sum(turn.pieces - 1 for turn in heard)
    late, sound_s = sum(turn.late for turn in heard), sum(turn.sound_s for turn in heard)
    outcomes = Counter(turn.outcome for turn in turns)
    return {
        "turns": len(turns),
        "answered": outcomes["answered"],
        "refused": outcomes["refused"],
        "failed": outcomes["failed"] + outcomes["silent"],
        "unanswered": outcomes["unanswered"],
        "why": dict(Counter(turn.detail for turn in turns if turn.detail)),
        "early": sum(turn.early for turn in turns),
        "first_audio_after_speech_s": percentiles(first),
        "first_audio_after_turn_s": percentiles(waits),
        "real_time_factor": percentiles(made),
        "pieces": sum(turn.pieces for turn in heard),
        "late": late,
        "late_share": share(late, followed),
        "stall_s": sum(turn.stall_s for turn in heard),
        "stalled_share": share(sum(turn.late > 0 for turn in heard), len(heard)),
        "sound_s": sound_s,
        "throughput": sound_s / wall_s,
        "wall_s": wall_s,
    }


def saturated(row: Row, settings: LoadSettings) -> str | None:
    """Say what of a row is above its bound; None where nothing is."""
    late, first = row["late_share"], row["first_audio_after_turn_s"]
    if row["answered"] < row["turns"]:
        return f"{row['turns'] - row['answered']} of {row['turns']} questions without an answer"
    if late is not None and late > settings.max_late:
        return f"{100 * late:.0f} % of later pieces were late"
    if first is not None and first["p95"] > settings.max_first_audio_s:
        return f"p95 of the first sound came {first['p95']:.2f} s after the turn"
    return None


def speculation(before: Row, after: Row) -> Row:
    """Return what speculation brought between two readings of a server's or client's counters.

    Returns:
        Counts of replies begun at a pause, used, dropped and left out; `hit_rate`: used of
        begun; `wasted_share`: tokens of replies that were given up, of all tokens made.
    """
    made = {name: after.get(name, 0) - before.get(name, 0) for name in _COUNTED}
    return {
        **{name: int(count) for name, count in made.items()},
        "hit_rate": share(made["used"], made["begun"]),
        "wasted_share": share(made["unheard_tokens"], made["tokens"]),
    }


_COUNTED = ("begun", "used", "dropped", "left_out", "abandoned", "unheard_tokens", "tokens")
