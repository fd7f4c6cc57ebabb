"""The report as a page of Markdown."""

from collections.abc import Sequence
from typing import Any

from llama_omni.bench.machine import versions_line
from llama_omni.bench.report import table
from llama_omni.bench.tiny.hearing import COLUMNS
from llama_omni.bench.tiny.samples import SOUNDS
from llama_omni.bench.tiny.settings import SPLITS

GOALS = {"test_seen": ">= 97 %", "test_unseen": ">= 90 %"}
VOICES = {"test_seen": "voices of the training", "test_unseen": "other voices"}
_TITLES = {"source": "source voice", "vocoded": "vocoded true units", "reply": "spoken answer"}
Estimate = dict[str, Any] | None


def markdown(result: dict[str, Any]) -> str:
    """Return the page."""
    sections = (_head, _summary, _speech, _speed, _real, _groups, _wrong, _listening)
    lines = [line for section in sections for line in [*section(result), ""]]
    return "\n".join(lines).rstrip("\n") + "\n"


def percent(estimate: Estimate) -> str:
    """Show a share or a rate with its interval, in percent."""
    if estimate is None:
        return "not measured"
    value, low, high = (100 * estimate[name] for name in ("value", "low", "high"))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(quoted(name) for name in names) or "no intent"


def quoted(text: str) -> str:
    """Show text in a cell of a table."""
    plain = " ".join(text.split())
    for mark in "\\`*_[]<>|":
        plain = plain.replace(mark, "\\" + mark)
    return plain or "(nothing)"


def _head(result: dict[str, Any]) -> list[str]:
    machine = result["machine"]
    return [
        "# What the tiny model can do",
        "",
        f"- Model: {result['model']}; data: {result['data']}",
        f"- Command: `{result['command']}`",
        f"- Hardware: {machine['gpu'] or machine['cpu']}, {machine['cores']} cores seen, threads "
        f"used: {machine['threads']}, {machine['system']}; load average {machine['load_average']}",
        f"- Versions: {versions_line(machine)}",
        f"- Date: {machine['date']}",
        "",
        "Every question is asked aloud and answered aloud, in chunks as in a conversation, with "
        "greedy decoding. In brackets: 95 % bootstrap intervals over questions (a group in which "
        "all are right has no width; that does not make it certain).",
        "",
        f"![accuracy and word error rates]({result['picture']})" if result["picture"] else "",
    ]


def _summary(result: dict[str, Any]) -> list[str]:
    scores = result["scores"]
    rows = []
    for split in SPLITS:
        found = scores["accuracy"][split]
        count = found["gate"]["items"] if found["gate"] else 0
        rows.append([f"right, {VOICES[split]}", percent(found["gate"]), str(count), GOALS[split]])
    for split in SPLITS:
        found = scores["accuracy"][split]["never_trained"]
        count = found["items"] if found else 0
        name = f"of them, questions that were never trained, {VOICES[split]}"
        rows.append([name, percent(found), str(count)])
    for split in SPLITS:
        found = scores["accuracy"][split]
        count = found["later"]["items"] if found["later"] else 0
        rows.append([f"right, later intents, {VOICES[split]}", percent(found["later"]), str(count)])
    for split in SPLITS:
        found = scores["accuracy"][split]["gate_refused"]
        count = found["items"] if found else 0
        rows.append([f"refused though known, {VOICES[split]}", percent(found), str(count)])
    outside = scores["outside_refused"]
    rows.append(
        ["out of domain, refused", percent(outside), str(outside["items"] if outside else 0)]
    )
    return [
        "## Text of the answers, % of questions",
        "",
        *_table(["held-out questions", "%", "questions", "goal"], rows),
        "",
        "The first two rows are the gate: questions with one short answer, sums to one hundred. "
        f"Nothing of {_listed(result['trained'])} is held out: these questions are the "
        "training's, spoken anew. Later intents are spelling, definitions, sums of three digits "
        "and follow-ups, in which the model answered the earlier question itself.",
        f"Replies cut at their longest: {scores['cut']}.",
    ]


def _speech(result: dict[str, Any]) -> list[str]:
    scores = result["scores"]
    rows, own = [], []
    for name, found in scores["recognition"].items():
        columns = found["columns"]
        count = columns["reply"]["items"] if columns["reply"] else 0
        rows.append([f"{name} LM", *(percent(columns[c]) for c in COLUMNS), str(count)])
        heard = found["same"]["items"] if found["same"] else 0
        own.append([f"{name} LM", percent(found["own"]), percent(found["same"]), str(heard)])
    units = scores["unit_error_rate"]
    return [
        "## Sound of the answers",
        "",
        "Word error rate, %, of PocketSphinx with its generic language model and with a bigram "
        "model of the training's answers, on the same texts (replies whose words are those of the "
        "data set's answer). Goal: the spoken answer within 3 points of the source voice.",
        "",
        *_table(["recogniser", *(_TITLES[c] for c in COLUMNS), "texts"], rows),
        "",
        "All replies, right or wrong, against their own text:",
        "",
        *_table(["recogniser", "word error rate, %", "heard as written, %", "replies"], own),
        "",
        f"Unit error rate of replies with the right words, %: {percent(units)}"
        + (f" of {units['cases']} units." if units else "."),
    ]


def _speed(result: dict[str, Any]) -> list[str]:
    found = result["scores"]["timings"]
    if found is None:
        return ["## Speed", "", "No reply had sound."]
    return [
        "## Speed",
        "",
        f"Medians of {found['replies']} replies on {result['machine']['threads']} thread(s): time "
        f"to first audio {1000 * found['first_audio_s']:.0f} ms, real-time factor "
        f"{found['real_time_factor']:.3f}, {found['sound_s']:.1f} s of sound.",
    ]


def _real(result: dict[str, Any]) -> list[str]:
    real = result["scores"]["real"]
    if not real:
        return []
    refused = sum(row["refused"] for row in real)
    rows = [
        [row["file"], f"{row['question_s']:.1f}", "yes" if row["refused"] else "no",
         quoted(row["reply"])]
        for row in real
    ]  # fmt: skip
    return [
        "## Real voices, out of domain",
        "",
        f"Refused: {refused} of {len(real)}.",
        "",
        *_table(["recording", "seconds", "refused", "reply"], rows, words=True),
    ]


def _groups(result: dict[str, Any]) -> list[str]:
    accuracy = result["scores"]["accuracy"]
    lines = []
    for title, group in (
        ("By intent", "gate_by_intent"),
        ("Later intents", "later_by_intent"),
        ("By voice (gate intents)", "gate_by_voice"),
    ):
        names = sorted({name for split in SPLITS for name in accuracy[split][group]})
        rows = []
        for name in names:
            found = [accuracy[split][group].get(name) for split in SPLITS]
            cells = [
                f"{percent(one)} of {one['items']}" if one is not None else "" for one in found
            ]
            rows.append([quoted(name), *cells])
        header = [group.rpartition("_")[2], *(f"{VOICES[split]}, %" for split in SPLITS)]
        lines += [f"## {title}", "", *_table(header, rows), ""]
    return lines[:-1]


def _wrong(result: dict[str, Any]) -> list[str]:
    scores = result["scores"]
    lines = []
    for title, rows in (
        ("Wrong answers, the first", scores["wrong"]),
        ("Out of domain but not refused, the first", scores["outside_accepted"]),
    ):
        if rows:
            cells = [
                [quoted(row[name]) for name in ("question", "voice", "answer", "reply")]
                for row in rows
            ]
            header = ["question", "voice", "should be", "reply"]
            lines += [f"## {title} {len(rows)}", "", *_table(header, cells, words=True), ""]
    return lines[:-1]


def _listening(result: dict[str, Any]) -> list[str]:
    rows = []
    for row in result["samples"]:
        sounds = [
            f"[play]({row['files'][name]})" if name in row["files"] else "none" for name in SOUNDS
        ]
        said = [quoted(row[name]) for name in ("question", "voice", "reply")]
        rows.append([*said, *sounds, quoted(row["heard"])])
    titles = ["question", *(_TITLES[column] for column in COLUMNS)]
    header = ["asked", "voice", "written reply", *titles, "recognised in the answer"]
    return ["## To listen to", "", *_table(header, rows, words=True)] if rows else []


def _table(header: Sequence[str], rows: list[list[str]], *, words: bool = False) -> list[str]:
    if not rows:
        return ["None."]
    lines = table(header, [row + [""] * (len(header) - len(row)) for row in rows])
    return [lines[0], lines[1].replace("---:", "---"), *lines[2:]] if words else lines
