"""The paper's tables, from our scores, with its published figures beside them."""

from collections.abc import Sequence
from dataclasses import replace

from llama_omni.evaluate.accuracy import by_category
from llama_omni.evaluate.document import Cell, Table
from llama_omni.evaluate.evaluated import Evaluated
from llama_omni.evaluate.published import OFFLINE, STREAMING, V1, V1_DECODING
from llama_omni.evaluate.records import Condition, EvalItem, Score

_MANY = 20  # categories; of more, only what stands before their comma is told apart
_DIGITS = {"%": 1, "ms": 0, "s": 2, "1 to 5": 2, "words": 2}
_NONE = "-"

# Table 1's columns: title, score, mode.
_JUDGED = (
    ("S2TIF content", "judge_content", "s2tif"),
    ("S2TIF style", "judge_style", "s2tif"),
    ("S2SIF content", "judge_content", "s2sif"),
    ("S2SIF style", "judge_style", "s2sif"),
    ("S2TIF score", "judge_score", "s2tif"),
    ("S2SIF score", "judge_score", "s2sif"),
)
_SPOKEN = (
    ("ASR-WER, %", "asr_wer", "s2sif"),
    ("ASR-CER, %", "asr_cer", "s2sif"),
    ("UTMOS", "utmos", "s2sif"),
)
_ANSWERED = (
    ("S2TIF right, %", "accuracy_text", "s2tif"),
    ("S2SIF text right, %", "accuracy_text", "s2sif"),
    ("S2SIF speech right, %", "accuracy_speech", "s2sif"),
)
_TRADE_OFF = (
    ("latency, ms", "first_audio_ms"),
    ("until the units, ms", "first_units_ms"),
    ("vocoder, ms", "first_vocode_ms"),
    ("lagging words", "lagging_words"),
    ("ASR-WER, %", "asr_wer"),
    ("ASR-CER, %", "asr_cer"),
    ("UTMOS", "utmos"),
    ("judge", "judge_score"),
    ("words/s", "words_per_second"),
)


def shown(score: Score | None) -> str:
    """Show a score with its interval, or a dash."""
    if score is None or score.value is None:
        return _NONE
    digits = _DIGITS.get(score.unit, 2)
    text = f"{score.value:.{digits}f}"
    if score.low is not None and score.high is not None:
        text += f" [{score.low:.{digits}f}, {score.high:.{digits}f}]"
    return text


def offline_condition(found: Evaluated, mode: str) -> Condition | None:
    """Return the condition of a mode that Table 1 speaks of: Omega infinite, else the largest."""
    there = [condition for condition in found.conditions if condition.mode == mode]
    return there[-1] if there else None


def table_1(systems: Sequence[Evaluated]) -> Table:
    """Table 1: what each system says, judged and recognised, in one chunk."""
    columns = [*_JUDGED, *_SPOKEN, *_ANSWERED]
    rows: list[list[Cell]] = []
    for found in systems:
        row: list[Cell] = [found.system]
        for _, name, mode in columns:
            condition = offline_condition(found, mode)
            row.append(shown(found.score(name, condition.name)) if condition else _NONE)
        rows.append(row)
    for one in OFFLINE:
        judged = [*one.s2tif, *one.s2sif]
        cells = [f"{score:.2f}" for score in judged]
        cells = [*cells, _NONE, _NONE] if one.version == V1 else [*[_NONE] * 4, *cells]
        cells += [_number(one.asr_wer), _number(one.asr_cer), _number(one.utmos)]
        rows.append([f"{one.system} (paper, {one.version})", *cells, *[_NONE] * len(_ANSWERED)])
    header = ["system", *(title for title, _, _ in columns)]
    return _without_empty(header, rows, quoted=len(OFFLINE))


def table_2(found: Evaluated) -> Table:
    """Table 2: the trade-off of the chunk size Omega."""
    rows: list[list[Cell]] = []
    for condition in found.conditions:
        if condition.mode == "s2sif":
            cells = [shown(found.score(name, condition.name)) for _, name in _TRADE_OFF]
            rows.append([_omega(condition.chunk_size), *cells])
    for one in STREAMING:
        numbers = [f"{one.total_ms:.0f}", f"{one.llm_ms:.0f}", f"{one.vocoder_ms:.0f}", _NONE]
        numbers += [f"{one.asr_wer:.2f}", _NONE, f"{one.utmos:.2f}"]
        numbers += [f"{one.judge_score:.2f}", f"{one.words_per_second:.2f}"]
        rows.append([f"{_omega(one.chunk_size)} (paper, v2)", *numbers])
    header = ["Omega", *(title for title, _ in _TRADE_OFF)]
    return _without_empty(header, rows, quoted=len(STREAMING))


def table_3(systems: Sequence[Evaluated]) -> Table:
    """Table 3: seconds to decode one instruction, in text alone and in both."""
    rows: list[list[Cell]] = []
    for found in systems:
        written, spoken = (offline_condition(found, mode) for mode in ("s2tif", "s2sif"))
        scores = [
            found.score("decoding_s", condition.name) if condition else None
            for condition in (written, spoken)
        ]
        rows.append([found.system, *map(shown, scores), _ratio(*scores)])
    for system, text_s, speech_s in V1_DECODING:
        ratio = f"{speech_s / text_s:.2f}" if text_s else "about 6"
        rows.append([f"{system} (paper, v1)", _number(text_s), _number(speech_s), ratio])
    header = ["system", "S2TIF, s", "S2SIF, s", "S2SIF / S2TIF"]
    return Table(header, rows, quoted=len(V1_DECODING))


def categories(found: Evaluated) -> Table:
    """Right answers by the set's own categories, a column a condition; empty where it has none."""
    values = found.values.get("accuracy", {})
    header, columns = ["category"], []
    coarse: dict[str, EvalItem] = {}
    if len({item.category for item in found.items.values()}) > _MANY:
        coarse = {
            name: replace(item, category=item.category.partition(",")[0])
            for name, item in found.items.items()
        }
    for condition in found.conditions:
        known = [
            (row, coarse.get(row.item, found.items[row.item]), values[row.key])
            for row in found.rows.values()
            if row.condition == condition.name and row.key in values
        ]
        for part in ("text", "speech"):
            if rates := by_category(known, part):
                header.append(f"{condition.name} {part}, %")
                columns.append(rates)
    names = sorted({name for rates in columns for name in rates})
    if not any(names):
        return Table(header, [])
    rows: list[list[Cell]] = []
    for name in names:
        there = [rates.get(name) for rates in columns]
        cells = [_NONE if one is None else f"{100 * one[0]:.0f} ({one[1]})" for one in there]
        rows.append([name or "(none)", *cells])
    return Table(header, rows)


def all_scores(found: Evaluated) -> Table:
    """Every score there is, by name, a column a condition."""
    conditions = [condition.name for condition in found.conditions]
    names = dict.fromkeys(score.name for score in found.scores if score.value is not None)
    rows: list[list[Cell]] = []
    for name in names:
        scores = [found.score(name, condition) for condition in conditions]
        first = next(score for score in scores if score is not None)
        title = f"{name}, {first.unit}" if first.unit else name
        count = max(score.count for score in scores if score is not None)
        rows.append([title, *map(shown, scores), str(count)])
    return Table(["score", *conditions, "items"], rows)


def absent(systems: Sequence[Evaluated]) -> list[tuple[str, str]]:
    """What was not measured, why, and how it can be."""
    found: dict[str, str] = {}
    for system in systems:
        for score in system.scores:
            if score.value is None and score.absent:
                found.setdefault(score.name, score.absent)
    return [*found.items()]


def _without_empty(header: list[str], rows: list[list[Cell]], *, quoted: int) -> Table:
    """Leave out the columns in which no row of ours holds anything."""
    ours = rows[: len(rows) - quoted]
    kept = [
        column
        for column in range(len(header))
        if column == 0 or any(row[column] != _NONE for row in ours)
    ]
    lines = [[row[column] for column in kept] for row in rows]
    said = [row for row in lines[len(ours) :] if any(cell != _NONE for cell in row[1:])]
    return Table([header[column] for column in kept], lines[: len(ours)] + said, quoted=len(said))


def _omega(chunk_size: int | None) -> str:
    return "infinite" if chunk_size is None else str(chunk_size)


def _number(value: float | None) -> str:
    return _NONE if value is None else f"{value:.2f}"


def _ratio(below: Score | None, above: Score | None) -> str:
    if below is None or above is None or not below.value or above.value is None:
        return _NONE
    return f"{above.value / below.value:.2f}"
