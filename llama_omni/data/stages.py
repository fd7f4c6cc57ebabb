"""What one process does of a build: any part of any stage, from files to files.

source -> rewrite -> respond -> synthesise -> fit -> units -> filter -> write
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from llama_omni.audio import UNIT_RATE
from llama_omni.data.filters import Spoken, check_heard, check_spoken
from llama_omni.data.flac import decode_flac
from llama_omni.data.items import Item
from llama_omni.data.journal import Journal, Part
from llama_omni.data.recipe import BuildRecipe
from llama_omni.data.records import Reject
from llama_omni.data.schema import HistoryRow, Row, Sound, arrow
from llama_omni.data.shards import write_shard
from llama_omni.data.speaking import Speaker, Unspeakable
from llama_omni.data.tools import Tools
from llama_omni.errors import OutputError
from llama_omni.interfaces import Audio

WORK = ".work"
STAGES = ("rewrite", "respond", "synthesise", "fit", "units", "filter", "write")
SOUND_COLUMNS = ("question_audio", "answer_audio", "history")


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """What every process of a build must know."""

    recipe: BuildRecipe
    output: Path
    tools: Tools


class Worker:
    """Does parts, one after the other; keeps what is slow to open."""

    def __init__(self, setup: Setup) -> None:
        self.recipe, self.output, self.tools = setup.recipe, setup.output, setup.tools
        self.journal = Journal(setup.output / WORK)

    def do(self, stage: str, number: int, argument: Any = None) -> Part:
        """Do one part and mark it as finished.

        Args:
            stage: One of `STAGES`.
            number: Of the part; of the shard in "write".
            argument: What the stage must be told beside its part.

        Raises:
            OutputError: The disk is full, or something else cannot be written.
            ToolError: A program or a server fails, whatever it is asked.
        """
        began = time.monotonic()
        work: Callable[[int, Any], Part] = getattr(self, f"_{stage}")
        try:
            part = work(number, argument)
        except OSError as error:
            raise OutputError(
                f"{self.output} must be writable, got: {error.strerror or error}; make room and "
                "run the same command again, it goes on from here"
            ) from error
        part = replace(part, seconds=round(time.monotonic() - began, 3))
        self.journal.finish(part)
        return part

    def close(self) -> None:
        """End programs and connections."""
        for name in ("_speaker", "_rewriter", "_responder"):
            opened = self.__dict__.pop(name, None)
            if opened is not None:
                opened.close()

    # Texts

    @cached_property
    def _rewriter(self) -> Any:
        return self.tools.open_rewriter(self.recipe, self.output)

    @cached_property
    def _responder(self) -> Any:
        return self.tools.open_responder(self.recipe, self.output)

    def _rewrite(self, number: int, _argument: Any) -> Part:
        return self._texts("rewrite", "source", number, self._rewriter)

    def _respond(self, number: int, _argument: Any) -> Part:
        return self._texts("respond", "rewrite", number, self._responder)

    def _texts(self, stage: str, before: str, number: int, writer: Any) -> Part:
        """Have a writer change the records; what was said as it is written is left alone."""
        items = self.journal.read_items(before, number)
        open_to_change = [item.record for item in items if _is_open(item, stage)]
        outcomes = writer.apply(open_to_change) if writer else open_to_change
        found = {
            record.id: outcome for record, outcome in zip(open_to_change, outcomes, strict=True)
        }
        kept: list[Item] = []
        rejects: list[Reject] = []
        for item in items:
            outcome = found.get(item.record.id, item.record)
            if isinstance(outcome, Reject):
                rejects.append(outcome)
            else:
                kept.append(item.with_record(outcome))
        self.journal.write_items(stage, number, kept)
        return Part(
            stage=stage,
            number=number,
            records=len(items),
            rejects=tuple(rejects),
            facts={"usage": writer.usage()} if writer else {},
        )

    # Sound

    @cached_property
    def _speaker(self) -> Speaker:
        repeated = frozenset(self.journal.noted("repeated") or ())
        shared = self.journal.folder / "spoken"
        opener, recorded = self.tools.open_synthesizer, self.journal.kept_sound
        return Speaker(self.recipe, opener, shared, repeated, recorded)

    def _synthesise(self, number: int, _argument: Any) -> Part:
        items = self.journal.read_items("respond", number)
        rows: list[Row] = []
        rejects: list[Reject] = []
        for item in items:
            try:
                rows.append(self._speaker.speak(item))
            except Unspeakable as error:
                record_id = item.record.id
                rejects.append(Reject(id=record_id, stage=error.stage, reason=error.reason))
        write_shard(self.journal.folder, _sound_name(number), "", rows)
        return Part(
            stage="synthesise",
            number=number,
            records=len(items),
            rejects=tuple(rejects),
            facts={"rows": len(rows), "spoken": sum(row.answer_audio is not None for row in rows)},
        )

    # Units

    def _fit(self, _number: int, num_parts: int) -> Part:
        """Fit units on the first answers, or copy those that the recipe names."""
        settings = self.recipe.units
        with self.tools.one_thread():
            if settings.folder is not None:
                extractor, report = self.tools.load_units(settings.folder, settings.device), {}
            else:
                answers = (sound for _, sound in self._answers(range(num_parts)))
                extractor, report = self.tools.fit_units(answers, settings, self.recipe.seed)
            extractor.save(self.output / "units")
        return Part(
            stage="fit",
            number=0,
            records=0,
            facts={"K": extractor.num_units, "kmeans_sha256": extractor.sha256, "fit": report},
        )

    @cached_property
    def _extractor(self) -> Any:
        return self.tools.load_units(str(self.output / "units"), self.recipe.units.device)

    def _units(self, number: int, _argument: Any) -> Part:
        found: list[dict[str, Any]] = []
        known: dict[bytes, dict[str, Any]] = {}  # of equal answers, which are spoken once
        with self.tools.one_thread():
            for record_id, data in self._encoded([number]):
                if data not in known:
                    sound = decode_flac(data, record_id)
                    made = self._extractor.units(sound)
                    units, durations = made.units.tolist(), made.durations.tolist()
                    known[data] = {"units": units, "durations": durations}
                found.append({"id": record_id, **known[data]})
        self.journal.write_rows("units", number, found)
        frames = sum(sum(row["durations"]) for row in found)
        return Part(
            stage="units", number=number, records=len(found), facts={"seconds": frames / UNIT_RATE}
        )

    def _answers(self, numbers: range) -> Iterator[tuple[str, Audio]]:
        for record_id, data in self._encoded(numbers):
            yield record_id, decode_flac(data, record_id)

    def _encoded(self, numbers: Any) -> Iterator[tuple[str, bytes]]:
        """Yield id and encoded answer of the spoken answers of some parts."""
        for number in numbers:
            for row in self._table(number, ["id", "answer_audio"]).to_pylist():
                if row["answer_audio"] is not None:
                    yield row["id"], row["answer_audio"]["bytes"]

    # Filter

    def _filter(self, number: int, _argument: Any) -> Part:
        filters = self.recipe.filters
        columns = [name for name in Row.__dataclass_fields__ if name not in SOUND_COLUMNS]
        if filters.recognizer is not None:
            columns += ["question_audio", "answer_audio"]
        units = self._units_of(number)
        kept: dict[str, list[int]] = {}
        rejects: list[Reject] = []
        rows = self._table(number, columns).to_pylist()
        for index, row in enumerate(rows):
            reason = self._judge(row, units.get(row["id"], {}).get("units", row["units"]))
            if reason is None:
                kept.setdefault(row["split"], []).append(index)
            else:
                rejects.append(Reject(id=row["id"], stage="filter", reason=reason))
        return Part(
            stage="filter",
            number=number,
            records=len(rows),
            rejects=tuple(rejects),
            facts={"kept": kept},
        )

    def _judge(self, row: dict[str, Any], units: list[int] | None) -> str | None:
        filters = self.recipe.filters
        spoken = Spoken(
            question=row["question"],
            question_s=row["question_s"],
            answer=row["answer"],
            answer_s=row["answer_s"],
            units=units,
            answer_tokens=self._count_tokens(row["answer"]) if filters.tokenizer else None,
        )
        reason = check_spoken(spoken, filters)
        if reason is not None or filters.recognizer is None:
            return reason
        sounds = [
            (side, row[side], decode_flac(row[f"{side}_audio"]["bytes"], row["id"]))
            for side in ("question", "answer")
            if row[f"{side}_audio"] is not None
        ]
        return check_heard(self._recognizer, sounds, filters.max_wer)

    @cached_property
    def _count_tokens(self) -> Callable[[str], int]:
        assert self.recipe.filters.tokenizer is not None
        return self.tools.token_counter(self.recipe.filters.tokenizer)

    @cached_property
    def _recognizer(self) -> Any:
        return self.tools.open_recognizer(self.recipe.filters.recognizer or "")

    # Write

    def _write(self, number: int, argument: Any) -> Part:
        """Write one shard: the rows of some parts, each a part's number and row numbers."""
        name, split, pieces = argument
        shard = write_shard(self.output, name, split, self._rows(pieces))
        return Part(stage="write", number=number, records=shard.rows, facts=asdict(shard))

    def _rows(self, pieces: list[tuple[int, list[int]]]) -> Iterator[Row]:
        for number, indexes in pieces:
            units = self._units_of(number)
            for row in self._table(number, None).take(indexes).to_pylist():
                made = units.get(row["id"], {})
                sounds = {
                    side: None if row[side] is None else Sound(**row[side])
                    for side in ("question_audio", "answer_audio")
                }
                history = tuple(
                    HistoryRow(
                        question=turn["question"],
                        answer=turn["answer"],
                        question_audio=turn["question_audio"] and Sound(**turn["question_audio"]),
                    )
                    for turn in row["history"]
                )
                yield Row(**(row | made | sounds | {"history": history}))

    def _units_of(self, number: int) -> dict[str, dict[str, Any]]:
        if not self.recipe.units.enabled:
            return {}
        return {row["id"]: row for row in self.journal.read_rows("units", number)}

    def _table(self, number: int, columns: list[str] | None) -> Any:
        path = self.journal.folder / _sound_name(number)
        parquet = arrow("pyarrow.parquet")
        return parquet.read_table(path, columns=columns, use_threads=False, partitioning=None)


def _is_open(item: Item, stage: str) -> bool:
    """Whether a stage may write a record anew: not the transcript of a sound."""
    if stage == "rewrite":
        return item.question_sound is None
    unknown = item.question_sound is not None and not item.record.question
    return item.answer_sound is None and item.units is None and not unknown


def _sound_name(number: int) -> str:
    return f"synthesise/part-{number:05d}.parquet"
