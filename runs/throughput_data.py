"""How many records a second each step of a build does, with so many processes."""

import logging
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llama_omni.data.build import StageProgress, build
from llama_omni.data.dataset import SpeechDataset
from llama_omni.data.journal import Journal
from llama_omni.data.named import find_recipe, with_paths
from llama_omni.data.recipe import BuildRecipe
from llama_omni.data.stages import WORK
from llama_omni.overrides import override

PARTS_PER_PROCESS = 4  # at least: then no process waits long for the last part of another

logger = logging.getLogger("throughput")


def measure_builds(
    name: str,
    sources: list[str],
    settings: list[str],
    *,
    records: int,
    processes: Sequence[int],
    rounds: int,
    work: Path,
) -> dict[str, Any]:
    """Build the same records again and again; leave the last build in `work`/set.

    The numbers of processes take turns within a round, so that what else the machine does falls on
    all of them alike.

    Args:
        name: Of a data recipe, of which the first source is taken.
        sources: As `data build --source`.
        settings: As `data build --set`.
        records: Of one build.
        processes: To compare.
        rounds: Builds with each of them.
        work: A folder for the builds.

    Returns:
        The recipe, mean lengths, and for each number of processes a list of rounds: of each stage
        seconds on the wall and of all processes together, records in and rejected, and the records
        a second of all processes once they are at work.
    """
    recipe = _shortened(override(with_paths(find_recipe(name), sources), settings), records)
    rows = max(1, records // (PARTS_PER_PROCESS * max(processes)))
    recipe = replace(recipe, part_rows=rows, rows_per_shard=rows)
    found: dict[int, list[dict[str, Any]]] = {count: [] for count in processes}
    for number in range(rounds):
        for count in processes:
            shutil.rmtree(work / "set", ignore_errors=True)
            (work / "set-replies.db").unlink(missing_ok=True)  # paid replies would be free
            logger.info("build round=%d processes=%d", number + 1, count)
            found[count].append(_one(recipe, work / "set", count))
    data = SpeechDataset(work / "set", next(iter(_splits(work / "set"))), columns=("units",))
    mean = {key: float(values.mean()) for key, values in data.lengths.items()}
    return {
        "recipe": recipe.published(),
        "records": records,
        "mean": mean,
        "rounds": {str(count): found[count] for count in processes},
    }


def _shortened(recipe: BuildRecipe, records: int) -> BuildRecipe:
    return replace(recipe, sources=(replace(recipe.sources[0], limit=records),))


def _splits(folder: Path) -> list[str]:
    from llama_omni.data.shards import read_shards

    return list(dict.fromkeys(shard.split for shard in read_shards(folder)))


def _one(recipe: BuildRecipe, output: Path, processes: int) -> dict[str, Any]:
    """Build once: what the build itself tells of its stages."""
    wall: dict[str, float] = {}

    def see(progress: StageProgress) -> None:
        wall[progress.stage] = progress.elapsed_s  # the last word on a stage is its whole time

    summary = build(recipe, output, processes=processes, keep_work=True, on_progress=see)
    journal = Journal(output / WORK)
    return {
        stage: {
            "wall_s": wall.get(stage, cost.seconds),
            "process_s": cost.seconds,
            "records": cost.records,
            "rejected": cost.rejected,
            "steady": _steady(journal, stage, processes),
        }
        for stage, cost in summary.stages.items()
    }


def _steady(journal: Journal, stage: str, processes: int) -> float | None:
    """Return the records a second of all processes by the journal's median part.

    The first part of each process opens voices, servers and models, which a long build forgets.
    """
    numbers = range(len(list((journal.folder / stage).glob("part-*.done"))))
    parts = [part for part in journal.parts(stage, numbers) if part.records]
    if not parts:
        return None
    # A part of the journal tells milliseconds.
    rates = [part.records / max(part.seconds, 0.0005) for part in parts]
    return processes * statistics.median(rates)
