"""All numbers of the report, from the rows of replies and transcripts."""

from collections.abc import Iterable
from dataclasses import asdict
from statistics import median
from typing import Any

from llama_omni.bench.journal import Journal, Row
from llama_omni.bench.tiny.asking import HeldOut
from llama_omni.bench.tiny.hearing import COLUMNS, heard_key, same_words
from llama_omni.bench.tiny.numbers import Estimate, rate, sequence_errors, share, word_errors
from llama_omni.bench.tiny.settings import OUTSIDE, SPLITS, Rules, TinySettings

Scores = dict[str, Any]
NUM_WRONG = 20  # wrong replies that are quoted


def accuracy(rows: Iterable[Row], rules: Rules, *, seed: int = 0) -> Scores:
    """Return the shares of right answers of one split, and of questions refused wrongly."""
    rows = list(rows)
    gate = [row for row in rows if row["intent"] in rules.gate]
    later = [row for row in rows if row["intent"] not in rules.gate]

    def right(some: Iterable[Row]) -> dict[str, Any] | None:
        return _as_dict(share([is_right(row, rules) for row in some], seed=seed))

    def grouped(some: Iterable[Row], field: str) -> dict[str, Any]:
        groups: dict[str, list[Row]] = {}
        for row in some:
            groups.setdefault(row[field] or "none", []).append(row)
        return {name: right(group) for name, group in sorted(groups.items())}

    return {
        "gate": right(gate),
        "never_trained": right(row for row in gate if row["intent"] not in rules.trained),
        "later": right(later),
        "gate_by_intent": grouped(gate, "intent"),
        "later_by_intent": grouped(later, "intent"),
        "gate_by_voice": grouped(gate, "voice"),
        "gate_refused": _as_dict(share([rules.refuses(row["reply"]) for row in gate], seed=seed)),
    }


def is_right(row: Row, rules: Rules) -> bool:
    """Tell whether a reply says what it should."""
    return rules.accepts(row["answer"], row["reply"])


def unit_errors(replies: Iterable[Row], held_out: HeldOut, *, seed: int = 0) -> Scores | None:
    """Return the unit error rate of replies with the right words against the true units."""
    pairs = []
    for row in replies:
        if row["split"] in SPLITS and same_words(row["reply"], row["answer"]):
            units = held_out[row["key"]].units
            if units is not None:
                pairs.append(sequence_errors(units.tolist(), row["units"]))
    return _as_dict(rate(pairs, seed=seed))


def recognition(
    settings: TinySettings, held_out: HeldOut, replies: Journal, heard: Journal, name: str
) -> Scores:
    """Return what one recogniser heard.

    Returns:
        "columns": word error rates of source voice, vocoded units and replies, on the same texts;
        "own": word error rate of all replies against their own text; "same": the share of replies
        that are heard as they are written.
    """
    keys = [key for split in SPLITS for key in held_out.of(split)[: settings.heard]]
    keys = [key for key in keys if heard_key(name, "reply", key) in heard]
    places = {c: {key: heard_key(name, c, key) for key in keys} for c in COLUMNS}
    wanted = [c for c in COLUMNS if any(place in heard for place in places[c].values())]
    alike = [
        key
        for key in keys
        if same_words(replies[key]["reply"], replies[key]["answer"])
        and all(places[column][key] in heard for column in wanted)
    ]
    columns = {
        column: [
            word_errors(replies[key]["answer"], heard[places[column][key]]["text"]) for key in alike
        ]
        for column in wanted
    }
    own = {key: heard[places["reply"][key]]["text"] for key in keys}
    pairs = [word_errors(replies[key]["reply"], text) for key, text in own.items()]
    same = [same_words(replies[key]["reply"], text) for key, text in own.items()]
    return {
        "columns": {c: _as_dict(rate(columns.get(c, []), seed=settings.seed)) for c in COLUMNS},
        "own": _as_dict(rate(pairs, seed=settings.seed)),
        "same": _as_dict(share(same, seed=settings.seed)),
    }


def timings(replies: Iterable[Row]) -> Scores | None:
    """Return medians over replies to first questions; None where none has sound."""
    rows = [row for row in replies if not row["turns_before"] and row["sound_s"]]
    if not rows:
        return None
    return {
        "replies": len(rows),
        "first_audio_s": median(row["first_audio_s"] for row in rows),
        "real_time_factor": median(row["real_time_factor"] for row in rows),
        "sound_s": median(row["sound_s"] for row in rows),
    }


def score(
    settings: TinySettings,
    held_out: HeldOut,
    replies: Journal,
    heard: Journal,
    names: Iterable[str],
    real: list[Row] | None,
) -> Scores:
    """Return everything that the page shows; `names` are the recognisers' language models."""
    rules, seed = settings.rules, settings.seed
    rows = [replies[key] for key in held_out]
    by_split = {s: [row for row in rows if row["split"] == s] for s in (*SPLITS, OUTSIDE)}
    tested = [row for split in SPLITS for row in by_split[split]]
    return {
        "accuracy": {split: accuracy(by_split[split], rules, seed=seed) for split in SPLITS},
        "outside_refused": _as_dict(
            share([rules.refuses(row["reply"]) for row in by_split[OUTSIDE]], seed=seed)
        ),
        "outside_accepted": [
            _brief(row) for row in by_split[OUTSIDE] if not rules.refuses(row["reply"])
        ][:NUM_WRONG],
        "wrong": [_brief(row) for row in tested if not is_right(row, rules)][:NUM_WRONG],
        "unit_error_rate": unit_errors(rows, held_out, seed=seed),
        "recognition": {
            name: recognition(settings, held_out, replies, heard, name) for name in names
        },
        "timings": timings(rows),
        "cut": sum(row["finish_reason"] != "stop" for row in rows),
        "real": real
        and [
            {name: row[name] for name in ("file", "question_s", "reply")}
            | {"refused": rules.refuses(row["reply"])}
            for row in real
        ],
    }


def _brief(row: Row) -> Row:
    return {name: row[name] for name in ("split", "voice", "intent", "question", "answer", "reply")}


def _as_dict(estimate: Estimate | None) -> dict[str, Any] | None:
    return None if estimate is None else asdict(estimate)
