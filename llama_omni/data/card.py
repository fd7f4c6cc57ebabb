"""A data set's card: README.md with what the hub reads, numbers, plots, and whose voices speak."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from llama_omni.data.card_plots import write_plots
from llama_omni.data.records import Reject
from llama_omni.data.statistics import (
    SplitStatistics,
    dataset_statistics,
    mean,
    statistics_rows,
)
from llama_omni.files import write_text

CARD, PLOTS = "README.md", "plots"
_MOST = 12  # lines of a list


def write_card(
    folder: Path,
    manifest: dict[str, Any],
    rejects: Iterable[Reject],
    *,
    count_tokens: Callable[[str], int] | None = None,
) -> None:
    """Write README.md and plots/*.png.

    Args:
        folder: Of the data set; its shards are there.
        manifest: What it will say.
        rejects: All of them.
        count_tokens: Counts the tokens of an answer.

    Raises:
        OutputError: Something cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    found = dataset_statistics(folder, manifest, count_tokens=count_tokens)
    reasons = count_reasons(rejects)
    plots = write_plots(folder / PLOTS, found, reasons)
    recipe = manifest["recipe"]
    parts = [
        _front_matter(manifest),
        f"# {recipe['name']}: spoken questions and answers",
        _made(manifest),
        "## Numbers",
        _table(statistics_rows(found)),
        _more_numbers(found),
        *(f"![{path.stem.replace('_', ' ')}]({PLOTS}/{path.name})" for path in plots),
        "## Voices",
        _table(_voice_rows(manifest, found)),
        *_intents(found),
        "## Rejected",
        _rejected(reasons),
        "## Fields",
        _FIELDS,
        "## Recipe",
        f"```json\n{json.dumps(recipe, indent=1, ensure_ascii=False)}\n```",
    ]
    write_text(folder / CARD, "\n\n".join(part for part in parts if part) + "\n")


def count_reasons(rejects: Iterable[Reject]) -> dict[str, int]:
    """Count rejects by stage and cause, the most frequent first; numbers and quotes left out."""
    counts: Counter[str] = Counter()
    for reject in rejects:
        cause = re.sub(r"'[^']*'|\"[^\"]*\"", "'...'", reject.reason)
        cause = re.sub(r"\d[\d,.]*\d|\d", "N", cause)
        counts[f"{reject.stage}: {cause[:100]}"] += 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _front_matter(manifest: dict[str, Any]) -> str:
    """Return the YAML by which the hub and `datasets` find the splits."""
    lines = [
        "---",
        f"pretty_name: {manifest['recipe']['name']}",
        f"language:\n- {manifest['recipe']['language']}",
        "tags:\n- speech\n- speech-to-speech\n- synthetic",
        "configs:\n- config_name: default\n  data_files:",
    ]
    for split in manifest["counts"]:
        lines.append(f"  - split: {split}\n    path: data/{split}-*.parquet")
    return "\n".join([*lines, "---"])


def _made(manifest: dict[str, Any]) -> str:
    versions = manifest["versions"]
    text = (
        f"Made by llama-omni {versions['llama-omni']} with the recipe below and seed "
        f"{manifest['seed']}; `manifest.json` holds every shard's SHA-256. Speech is synthetic "
        f"unless a voice is called `recorded`: FLAC, {manifest['sample_rate'] // 1000} kHz, mono."
    )
    if manifest["units"] is not None:
        units = manifest["units"]
        text += (
            f" Answers also come as units: {units['K']} k-means centres at "
            f"{units['frame_rate']} Hz, repeats merged (`units/`)."
        )
    return text


def _more_numbers(found: dict[str, SplitStatistics]) -> str:
    lines = []
    for name, split in found.items():
        facts = [
            f"{mean(split.question_words):.1f} words a question",
            f"{mean(split.answer_words):.1f} an answer",
        ]
        if split.units:
            facts.append(f"{mean(split.units):.1f} units an answer")
        if split.tokens_per_s:
            facts.append(f"{mean(split.tokens_per_s):.2f} tokens a second")
        if split.units_per_token:
            facts.append(
                f"{mean(split.units_per_token):.1f} units a token (at most "
                f"{max(split.units_per_token):.1f})"
            )
        if split.follow_ups:
            facts.append(f"{split.follow_ups:,} follow an earlier question")
        lines.append(f"- {name}: {', '.join(facts)}")
    return "\n".join(lines)


def _voice_rows(manifest: dict[str, Any], found: dict[str, SplitStatistics]) -> list[list[str]]:
    """Return each voice with what it says in each split; answers and questions together."""
    spoken = {name: split.question_voices + split.answer_voices for name, split in found.items()}
    names = sorted({voice for counts in spoken.values() for voice in counts})
    rows = [["voice", "licence of the voice", *found]]
    for voice in names:
        known = manifest["voices"].get(voice)
        licence = known["licence"] if known else "unknown"
        rows.append([voice, licence, *(f"{counts[voice]:,}" for counts in spoken.values())])
    return rows


def _intents(found: dict[str, SplitStatistics]) -> list[str]:
    names = sorted({intent for split in found.values() for intent in split.intents})
    if not names:
        return []
    rows = [["intent", *found]]
    for intent in names:
        rows.append([intent, *(f"{split.intents[intent]:,}" for split in found.values())])
    return ["## Intents", _table(rows)]


def _rejected(reasons: dict[str, int]) -> str:
    if not reasons:
        return "None."
    rows = [["stage and reason", "records"]]
    rows += [[reason, f"{count:,}"] for reason, count in list(reasons.items())[:_MOST]]
    if len(reasons) > _MOST:
        rest = sum(list(reasons.values())[_MOST:])
        rows.append([f"{len(reasons) - _MOST} other reasons", f"{rest:,}"])
    text = f"{sum(reasons.values()):,} records; each with its reason in `rejects.jsonl`."
    return f"{text}\n\n{_table(rows)}"


def _table(rows: list[list[str]]) -> str:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


_FIELDS = """\
| field | what |
| --- | --- |
| id, split, source, intent | which record, from where, and what kind of question |
| question, question_audio, question_voice, question_s | what is asked, its sound, voice, seconds |
| answer, answer_audio, answer_voice, answer_s | the same of the answer |
| units, durations | units of the answer, repeats merged, and 20 ms frames of each |
| history | earlier questions of the conversation, with their answers and sound |"""
