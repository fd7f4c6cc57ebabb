"""The page of throughput.py: medians in tables, and what 200K records would take."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from llama_omni.bench.machine import describe, versions_line
from llama_omni.bench.report import table
from llama_omni.bench.settings import ANSWER_TOKENS, Spread

RECORDS = 200_000  # of InstructS2S-200K
EPOCHS = 3
# The paper's means: seconds of questions and answers, units of an answer.
QUESTION_S, ANSWER_S, ANSWER_UNITS = 7.5, 19.0, 553.6
TARGETS = {"stage1": ("tokens", ANSWER_TOKENS), "stage2": ("units", ANSWER_UNITS)}
STAGES = ("source", "rewrite", "respond", "synthesise", "units", "filter", "write")
SPOKEN = ("synthesise", "write")  # as long as all sound is; "units" as long as answers are
NOTES = (
    "Every number is the median of rounds, with the lowest and the highest in brackets; numbers of "
    "processes took turns within a round.",
    "Records a second on the wall are as the build tells them: a stage waits until its processes "
    "have begun, and have opened voices and models. At work: of all processes, by the median part "
    "of the build's journal, without those beginnings; this is what is scaled.",
    "`fit` is done once, on no more sound than the recipe says, so it is shown and not scaled.",
    f"Scaled to {RECORDS:,} records: as these are; and at the paper's lengths ({QUESTION_S:g} s of "
    f"question, {ANSWER_S:g} s of answer), where time goes with sound for synthesise, units and "
    "write. One process of the build is one line of work: a chat server or a graphics card "
    "answers to other laws.",
    f"Training is scaled to {EPOCHS} epochs of {RECORDS:,} answers of {ANSWER_TOKENS} tokens and "
    f"{ANSWER_UNITS:g} units. Weights are random, and their stand-in tokeniser spells letter by "
    "letter: a real one's fewer tokens have more of the prompt to carry each.",
)


def begin(command: str) -> dict[str, Any]:
    """Return the beginning of a result: what was asked for, and how busy the machine was."""
    return {"command": command, "load_before": round(os.getloadavg()[0], 1)}


def finish(result: dict[str, Any], device: str) -> None:
    """Add what was measured on."""
    cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    place = torch.device("cuda" if cuda else "cpu")
    result["machine"] = describe(place, torch.float32)
    if "train" in result:
        result["machine"]["threads"] = result["train"]["threads"]


def write(result: dict[str, Any], folder: Path, name: str) -> None:
    """Write `<name>.json` and `<name>.md`."""
    (folder / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (folder / f"{name}.md").write_text(markdown(result), encoding="utf-8")


def markdown(result: dict[str, Any]) -> str:
    """Return the result as a page."""
    machine = result["machine"]
    busy = f"load average {result['load_before']} before, {machine['load_average']} at the end"
    lines = [
        "# Throughput",
        "",
        f"- Hardware: {machine['gpu'] or machine['cpu']}, {machine['cores']} cores seen, "
        f"{machine['memory_gib']} GiB, {machine['system']}; {busy}",
        f"- Versions: {versions_line(machine)}",
        f"- Command: `{result['command']}`",
        f"- Date: {machine['date']}",
        "",
        *(f"- {note}" for note in NOTES),
    ]
    if result["load_before"] > 0.5:
        lines += ["", f"**Something else ran on this machine (load {result['load_before']}).**"]
    if "data" in result:
        lines += ["", *_data(result["data"])]
    if "train" in result:
        lines += ["", *_train(result["train"])]
    return "\n".join(lines) + "\n"


def _data(data: dict[str, Any]) -> Iterator[str]:
    rounds, mean = data["rounds"], data["mean"]
    yield from (
        "## Building a data set",
        "",
        f"{data['records']:,} records of recipe {data['recipe']['name']}, in parts of "
        f"{data['recipe']['part_rows']}: {mean['question_s']:.1f} s a question, "
        f"{mean['answer_s']:.1f} s and {mean['num_units']:.0f} units an answer.",
        "",
    )
    counts = list(rounds)
    for title, rates in (("at work", steady_rates), ("on the wall", wall_rates)):
        header = [f"records/s, {title}", *(_processes(count) for count in counts)]
        rows = [
            [stage, *(_shown(rates(rounds[count], stage)) for count in counts)] for stage in STAGES
        ]
        yield from table(header, [row for row in rows if any(row[1:])])
        yield ""
    fits = [_seconds(rounds[count], "fit") for count in counts]
    if any(fits):
        yield from table(["seconds", *map(_processes, counts)], [["fit", *fits]])
        yield ""
    header = [f"hours for {RECORDS:,}", *(_processes(count) for count in counts)]
    shown = []
    for title, at_paper in (("records as these", False), ("at the paper's lengths", True)):
        hours = [_hours(rounds[count], mean if at_paper else None) for count in counts]
        shown.append([title, *hours])
    yield from table(header, shown)


def _processes(count: str) -> str:
    return f"{count} process{'' if count == '1' else 'es'}"


def wall_rates(rounds: list[dict[str, Any]], stage: str) -> list[float]:
    """Return the records a second of each round, its beginnings included."""
    found = [costs[stage] for costs in rounds if stage in costs]
    return [c["records"] / c["wall_s"] for c in found if c["records"] and c["wall_s"]]


def steady_rates(rounds: list[dict[str, Any]], stage: str) -> list[float]:
    """Return the records a second of each round once all processes are at work."""
    found = [costs[stage]["steady"] for costs in rounds if stage in costs]
    steady = [rate for rate in found if rate]
    return steady or wall_rates(rounds, stage)  # the source is read by one process, in one go


def _shown(rates: list[float]) -> str:
    return _spread(rates) if rates else ""


def _seconds(rounds: list[dict[str, Any]], stage: str) -> str:
    found = [costs[stage]["wall_s"] for costs in rounds if stage in costs]
    return _spread(found) if found else ""


def scale(stage: str, mean: dict[str, float] | None) -> float:
    """Return how much longer a stage takes at the paper's lengths; None: at these."""
    if mean is None:
        return 1.0
    if stage in SPOKEN:
        return (QUESTION_S + ANSWER_S) / (mean["question_s"] + mean["answer_s"])
    return ANSWER_S / mean["answer_s"] if stage == "units" and mean["answer_s"] else 1.0


def _hours(rounds: list[dict[str, Any]], mean: dict[str, float] | None) -> str:
    """Return hours of all stages one after the other, in each round."""
    totals = []
    for costs in rounds:
        seconds = 0.0
        for stage in STAGES:
            for rate in steady_rates([costs], stage):
                seconds += RECORDS / rate * scale(stage, mean)
        totals.append(seconds / 3600)
    return _spread(totals)


def _train(train: dict[str, Any]) -> Iterator[str]:
    counts = ", ".join(f"{part} {n / 1e6:,.1f} M" for part, n in train["parameters"].items())
    yield from (
        "## Training",
        "",
        f"Recipe {train['recipe']['name']} with random weights of preset "
        f"{train['recipe']['preset']} ({counts}); threads: {train['threads']}; {train['steps']} "
        f"steps a round behind {train['warm_up']} of warming up.",
        "",
    )
    header = ["stage", "rows/s", "answer tokens or units/s", f"hours for {RECORDS:,}"]
    rows, left_out = [], []
    for stage, rounds in train["stages"].items():
        if isinstance(rounds, str):
            left_out.append(f"{stage} was left out: it {rounds}.")
            continue
        name, of_paper = TARGETS[stage]
        rates = [one["targets"] / one["seconds"] for one in rounds]
        hours = [EPOCHS * RECORDS * of_paper / rate / 3600 for rate in rates]
        rows_s = _spread([one["rows"] / one["seconds"] for one in rounds])
        rows.append([stage, rows_s, f"{_spread(rates)} {name}", _spread(hours)])
    if rows:
        yield from table(header, rows)
    yield from left_out


def _spread(values: list[float]) -> str:
    found = Spread.of(values)
    return f"{_digits(found.median)} [{_digits(found.low)}, {_digits(found.high)}]"


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
