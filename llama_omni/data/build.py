"""Build a data set: stage after stage, part by part, the same files however it is interrupted.

Everything on the way lies in OUTPUT/.work: parts of the records, each written whole or not at all.
A second run of the same recipe skips the finished ones; another recipe is refused.
"""

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from llama_omni.data.card import write_card
from llama_omni.data.card_plots import check_plots
from llama_omni.data.claim import alone_in, finished_before, note_recipe
from llama_omni.data.filters import duplicate_key
from llama_omni.data.items import Item
from llama_omni.data.journal import Journal, Part
from llama_omni.data.manifest import make_manifest
from llama_omni.data.origin import Origin, read_origins
from llama_omni.data.pool import Task, Workers
from llama_omni.data.recipe import BuildRecipe
from llama_omni.data.records import Reject
from llama_omni.data.shards import Shard, check_shard, shard_name, write_manifest
from llama_omni.data.sources import read_sources
from llama_omni.data.speaking import KnownVoices, spoken_key
from llama_omni.data.speech_text import find_language, is_marked
from llama_omni.data.stages import WORK, Setup
from llama_omni.data.tools import Tools, check_tools
from llama_omni.errors import ConfigError, InputError
from llama_omni.files import write_text
from llama_omni.interfaces import Voice

logger = logging.getLogger(__name__)

REJECTS = "rejects.jsonl"
_MANY_MARKED = 0.1  # of the questions: more is hardly English with a name in it


@dataclass(frozen=True, kw_only=True, slots=True)
class StageProgress:
    """How far a stage is."""

    stage: str
    done: int  # records
    total: int | None  # None: not known
    rejected: int
    elapsed_s: float  # of this run
    eta_s: float | None  # None: not known yet


@dataclass(frozen=True, kw_only=True, slots=True)
class StageCost:
    """What a stage took: records a second are of one process."""

    records: int
    rejected: int
    seconds: float  # of all processes together


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildSummary:
    """What a build gave."""

    folder: Path
    counts: dict[str, int]  # rows of each split
    rejects: dict[str, int]  # by stage
    stages: dict[str, StageCost] = field(default_factory=dict)  # nothing if it was complete before
    usage: dict[str, float] = field(default_factory=dict)  # of chat servers


OnProgress = Callable[[StageProgress], None]


def build(
    recipe: BuildRecipe,
    output: Path,
    *,
    processes: int = 1,
    limit: int | None = None,
    keep_work: bool = False,
    on_progress: OnProgress = lambda _progress: None,
    tools: Tools = Tools(),
) -> BuildSummary:
    """Make a data set, or go on where an earlier run of the same recipe stopped.

    Args:
        recipe: What it is made of.
        output: Its folder: new, empty, or of an earlier run of this recipe.
        processes: How many work; the files do not depend on it.
        limit: At most so many records of each source.
        keep_work: Keep OUTPUT/.work, where every stage's outcome lies.
        on_progress: Is told after every part.
        tools: What the stages open.

    Raises:
        ConfigError: The recipe cannot work, or the folder holds a data set of another one.
        InputError: A source is empty or broken.
        OutputError: The disk is full, the folder cannot be written to, or is being built in.
        ToolError: A voice or a server is absent, or fails whatever it is asked.
    """
    if processes < 1:
        raise ConfigError(f"processes must be at least 1, got {processes}")
    if limit is not None:
        if limit < 1:
            raise ConfigError(f"limit must be at least 1, got {limit}")
        sources = (replace(s, limit=min(limit, s.limit or limit)) for s in recipe.sources)
        recipe = replace(recipe, sources=tuple(sources))
    recipe.check()
    check_plots()
    origins = read_origins(recipe.sources)
    done = finished_before(recipe, output, origins)
    if done is not None:
        return BuildSummary(folder=output, counts=done["counts"], rejects=done["rejects"])
    with alone_in(output):
        known = KnownVoices(recipe, tools.open_synthesizer)
        voices = known.check_recipe()
        check_tools(recipe, tools)
        for left in output.rglob(".*.part"):  # by a run that was killed
            left.unlink()
        note_recipe(output, recipe, origins)
        setup = Setup(recipe=recipe, output=output, tools=tools)
        workers = Workers(setup, processes)
        try:
            summary = _Build(setup, workers, on_progress, known.check_question).run(voices, origins)
        except BaseException:
            workers.close(now=True)
            raise
        workers.close()
        if not keep_work:
            Journal(output / WORK).drop()
    return summary


class _Build:
    """One run."""

    def __init__(
        self,
        setup: Setup,
        workers: Workers,
        on_progress: OnProgress,
        check_voice: Callable[[str], None],
    ) -> None:
        self.recipe, self.output, self.tools = setup.recipe, setup.output, setup.tools
        self.workers, self.on_progress, self.check_voice = workers, on_progress, check_voice
        self.journal = Journal(self.output / WORK)
        self.parts: dict[str, list[Part]] = {}  # of each finished stage, in order

    def run(self, voices: dict[str, Voice], origins: list[Origin]) -> BuildSummary:
        """Do all stages, then write what describes the result."""
        sizes = self._source(origins)
        self._stage("rewrite", sizes)
        self._stage("respond", self._left("rewrite"))
        self._note_repeated(len(sizes))
        self._stage("synthesise", self._left("respond"))
        spoken = self._left("synthesise")
        answers = sum(part.facts["spoken"] for part in self.parts["synthesise"])
        units = self.recipe.units.enabled and answers > 0
        if self.recipe.units.enabled and not units:
            for number in range(len(sizes)):
                self.journal.write_rows("units", number, [])
        if units:
            self._tasks("fit", [("fit", 0, len(sizes))], [0])
            from llama_omni.model.device import find_device

            place = find_device(self.recipe.units.device, field="units.device")
            self._stage("units", spoken, alone=place.type != "cpu")
        self._stage("filter", spoken)
        self._write()
        rejects = self._rejects()
        manifest = make_manifest(
            self.recipe,
            [part.facts for part in self.parts["write"]],
            rejects,
            voices,
            self.parts["fit"][0].facts if units else None,
            self.journal.noted("source").get("origins", []),
        )
        write_text(
            self.output / REJECTS,
            "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rejects),
        )
        write_card(self.output, manifest, rejects, count_tokens=self._token_counter())
        write_manifest(self.output, manifest)
        return BuildSummary(
            folder=self.output,
            counts=manifest["counts"],
            rejects=manifest["rejects"],
            stages={
                stage: StageCost(
                    records=sum(part.records for part in parts),
                    rejected=sum(len(part.rejects) for part in parts),
                    seconds=sum(part.seconds for part in parts),
                )
                for stage, parts in self.parts.items()
            },
            usage=self._usage(),
        )

    def _source(self, origins: list[Origin]) -> list[int]:
        """Cut the sources into parts; return how many records each has."""
        noted = self.journal.noted("source")
        if noted is None:
            began, size = time.monotonic(), self.recipe.part_rows
            rejects: list[Reject] = []
            items, sizes, marked = self._read(rejects), list[int](), 0
            while piece := list(islice(items, size)):
                marked += sum(is_marked(item.record.question) for item in piece)
                self.journal.write_items("source", len(sizes), piece)
                sizes.append(len(piece))
                self._tell("source", sum(sizes), None, len(rejects), began, sum(sizes))
            if marked > _MANY_MARKED * sum(sizes) and find_language(self.recipe.language):
                logger.warning(
                    "%d of %d questions have letters that language=%s folds or refuses; if they "
                    "are of another, name it: language=CODE",
                    marked,
                    sum(sizes),
                    self.recipe.language,
                )
            noted = {
                "sizes": sizes,
                "rejects": [asdict(row) for row in rejects],
                "seconds": time.monotonic() - began,
                "origins": origins,
            }
            self.journal.note("source", noted)
        rejects = [Reject(**row) for row in noted["rejects"]]
        records = sum(noted["sizes"]) + len(rejects)
        self.parts["source"] = [
            Part(
                stage="source",
                number=0,
                records=records,
                rejects=tuple(rejects),
                seconds=noted["seconds"],
            )
        ]
        return noted["sizes"]

    def _read(self, rejects: list[Reject]) -> Iterator[Item]:
        """Yield the records, without those that ask what was asked before."""
        asked: dict[Any, str] = {}
        for item in read_sources(
            self.recipe.sources,
            seed=self.recipe.seed,
            named_by_set=True,
            check_voice=self.check_voice,
            keep_sound=self.journal.keep_sound,
        ):
            key = None if self.recipe.filters.duplicates else duplicate_key(item)
            if (
                key is not None
                and (first := asked.setdefault(key, item.record.id)) != item.record.id
            ):
                reason = f"question must be new, got that of {first} again"
                rejects.append(Reject(id=item.record.id, stage="source", reason=reason))
                continue
            yield item

    def _left(self, stage: str) -> list[int]:
        return [part.records - len(part.rejects) for part in self.parts[stage]]

    def _stage(self, stage: str, sizes: list[int], *, alone: bool = False) -> None:
        """Do the parts of a stage that no earlier run did."""
        self._tasks(stage, [(stage, number, None) for number in range(len(sizes))], sizes, alone)

    def _tasks(
        self, stage: str, tasks: list[Task], sizes: list[int], alone: bool = False
    ) -> list[Part]:
        began, total = time.monotonic(), sum(sizes)
        found = {number: self.journal.finished(stage, number) for _, number, _ in tasks}
        parts = {number: part for number, part in found.items() if part is not None}
        before = sum(part.records for part in parts.values())
        rejected = sum(len(part.rejects) for part in parts.values())
        done = before
        self._tell(stage, done, total, rejected, began, 0)
        left = [task for task in tasks if task[1] not in parts]
        for part in self.workers.run(left, alone=alone):
            parts[part.number] = part
            done, rejected = done + part.records, rejected + len(part.rejects)
            self._tell(stage, done, total, rejected, began, done - before)
        self.parts[stage] = [parts[number] for _, number, _ in tasks]
        return self.parts[stage]

    def _tell(
        self, stage: str, done: int, total: int | None, rejected: int, began: float, new: int
    ) -> None:
        elapsed = time.monotonic() - began
        eta = elapsed / new * (total - done) if total is not None and new else None
        self.on_progress(
            StageProgress(
                stage=stage,
                done=done,
                total=total,
                rejected=rejected,
                elapsed_s=elapsed,
                eta_s=eta,
            )
        )

    def _note_repeated(self, num_parts: int) -> None:
        """Find the answers that more than one record gives: they are spoken once."""
        voice = self.recipe.voices.answer
        if voice is None or self.journal.noted("repeated") is not None:
            return
        counts: Counter[str] = Counter()
        for number in range(num_parts):
            for item in self.journal.read_items("respond", number):
                if item.answer_sound is None and item.units is None and item.record.answer:
                    counts[spoken_key(voice, item.record.answer, 1.0, 1.0)] += 1
        self.journal.note("repeated", sorted(key for key, n in counts.items() if n > 1))

    def _write(self) -> None:
        """Put the kept rows into shards, split by split, in the order of the records."""
        size = self.recipe.rows_per_shard
        kept: dict[str, list[tuple[int, int]]] = {}
        for part in self.parts["filter"]:
            for split, rows in part.facts["kept"].items():
                kept.setdefault(split, []).extend((part.number, row) for row in rows)
        tasks: list[Task] = []
        sizes = []
        for split in sorted(kept):
            for number, first in enumerate(range(0, len(kept[split]), size)):
                pieces: dict[int, list[int]] = {}
                for part, row in kept[split][first : first + size]:
                    pieces.setdefault(part, []).append(row)
                argument = (shard_name(split, number), split, list(pieces.items()))
                tasks.append(("write", len(tasks), argument))
                sizes.append(sum(len(rows) for rows in pieces.values()))
        if not tasks:
            rejects = self._rejects()
            if any(row.stage == "filter" for row in rejects):
                remedy = "change the filters and run it again"
            else:
                remedy = f"mend it and delete {self.output} to build it anew"
            raise InputError(
                f"at least one record must pass the filters, got none of "
                f"{self.parts['source'][0].records}; the first reason: {rejects[0].reason}; "
                f"{remedy}"
            )
        self._forget_damaged(len(tasks))
        self._tasks("write", tasks, sizes)

    def _forget_damaged(self, num_shards: int) -> None:
        """Have shards written again that are not as they were; their markers lie in .work."""
        for number in range(num_shards):
            part = self.journal.finished("write", number)
            if part is None:
                continue
            try:
                check_shard(self.output, Shard(**part.facts), hashed=True)
            except InputError as error:
                logger.warning("a shard is damaged, writing it again: %s", error)
                self.journal.forget("write", number)

    def _rejects(self) -> list[Reject]:
        return [row for parts in self.parts.values() for part in parts for row in part.rejects]

    def _token_counter(self) -> Callable[[str], int] | None:
        folder = self.recipe.filters.tokenizer
        return None if folder is None else self.tools.token_counter(folder)

    def _usage(self) -> dict[str, float]:
        """Add up what chat servers counted, of each process and part."""
        total: Counter[str] = Counter()
        for stage in ("rewrite", "respond"):
            for part in self.parts[stage]:
                total.update(part.facts.get("usage", {}))
        return dict(total)
