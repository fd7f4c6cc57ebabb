"""A data set made small: Opus for FLAC, a draw of its rows, answers' sound in a set of its own.

Two sets come of one, both in the layout that `llama-omni data build` writes. `answers` is for the
vocoder alone and can go once that is trained; so can the split "words" after the encoder.
"""

import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from bundle_opus import encode_opus

from llama_omni.data.flac import decode_flac
from llama_omni.data.schema import HistoryRow, Row, Sound, arrow
from llama_omni.data.shards import (
    check_shard,
    read_manifest,
    read_shards,
    shard_name,
    write_manifest,
    write_shard,
)
from llama_omni.errors import InputError

LEARNT = ("train", "words")  # splits that are drawn from; the others are held out
# Of libsndfile, 0 to 1, the last being the smallest: about 13 and 21 kbit/s of 16 kHz speech.
QUESTION_LEVEL, ANSWER_LEVEL = 0.97, 0.93
ROWS_PER_SHARD = 1000

_SAMPLE = 48  # rows by which the size of all is guessed at first
_SPARE = 1.05  # more rows than guessed are coded, so that the room is used
_ROW_BYTES = 700  # at most of a row without its sound: texts, units, Parquet's own


@dataclass(frozen=True, kw_only=True, slots=True)
class Draw:
    """How much of a data set is taken."""

    answers: int = 1500  # with sound, each another one
    held_out: int = 100  # rows of each held-out split
    seed: int = 0


def draw_answers(source: Path, target: Path, draw: Draw, *, threads: int) -> int:
    """Write the set that a vocoder learns from: answers with sound, units and durations.

    Returns:
        How many rows it holds.

    Raises:
        InputError: the data set holds no answers with sound and units.
    """
    spoken: dict[str, tuple[str, int]] = {}
    columns = ["answer", "answer_s", "durations"]
    for split, number, row in _rows(source, (LEARNT[0],), columns=columns):
        if row["answer_s"] and row["durations"]:
            spoken.setdefault(row["answer"], (split, number))
    places = list(spoken.values())
    order = np.random.default_rng([draw.seed, 1]).permutation(len(places))[: draw.answers]
    if len(order) < 2:
        raise InputError(f"{source} must hold answers with sound and units, got {len(order)}")
    chosen = {LEARNT[0]: {places[i][1] for i in order}}
    rows = [replace(row, history=()) for _, row in _chosen(source, chosen)]
    coded = _coded(rows, threads, question=None, answer=ANSWER_LEVEL)
    _write(source, target, {LEARNT[0]: coded})
    return len(coded)


def draw_questions(
    source: Path, target: Path, draw: Draw, *, num_bytes: int, threads: int
) -> dict[str, int]:
    """Write the set that all else learns from: questions with sound, answers in words and units.

    As many rows of the learnt splits as there is room for, by a seeded draw over them all; the held
    out ones first.

    Returns:
        How many rows of each split it holds.

    Raises:
        InputError: there is no room for any.
    """
    sizes: dict[str, int] = {}
    for shard in read_shards(source):
        sizes[shard.split] = sizes.get(shard.split, 0) + shard.rows
    rng = np.random.default_rng([draw.seed, 2])
    held = {
        split: set(rng.permutation(size)[: draw.held_out].tolist())
        for split, size in sizes.items()
        if split not in LEARNT
    }
    whole = [(split, i) for split in LEARNT for i in range(sizes.get(split, 0))]
    order = [whole[i] for i in rng.permutation(len(whole))]
    kept = _question_rows(source, held, threads)
    left = num_bytes - sum(map(_bytes, kept.values()))
    sample = _question_rows(source, _by_split(order[:_SAMPLE]), threads)
    each = max(1, sum(map(_bytes, sample.values())) // max(1, len(sample)))
    drawn = order[: max(0, int(_SPARE * left / each))]
    learnt = _question_rows(source, _by_split(drawn), threads)
    while True:
        fitting: list[tuple[str, int]] = []
        room = left
        for place in drawn:
            room -= _bytes(learnt[place])
            if room < 0:
                break
            fitting.append(place)
        if {split for split, _ in fitting} != {split for split, _ in whole}:
            raise InputError(
                f"the bundle must have room for the data set, got {num_bytes / (1 << 20):.1f} MiB"
            )
        rows = {split: [kept[split, i] for i in sorted(held[split])] for split in held}
        for split, numbers in _by_split(fitting).items():
            rows[split] = [learnt[split, i] for i in sorted(numbers)]
        _write(source, target, rows)
        excess = size_of(target) - num_bytes
        if excess <= 0:
            return {split: len(found) for split, found in rows.items()}
        left -= excess + num_bytes // 200


def without_split(folder: Path, split: str) -> None:
    """Take a split out of a data set."""
    manifest = read_manifest(folder)
    for entry in [entry for entry in manifest["shards"] if entry["split"] == split]:
        manifest["shards"].remove(entry)
        (folder / entry["file"]).unlink()
    manifest.get("counts", {}).pop(split, None)
    write_manifest(folder, manifest)


def size_of(folder: Path) -> int:
    """Return the bytes of all files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _question_rows(
    source: Path, chosen: dict[str, set[int]], threads: int
) -> dict[tuple[str, int], Row]:
    found = list(_chosen(source, chosen))
    silent = [
        replace(row, answer_audio=None, answer_voice=None, answer_s=None, durations=None)
        for _, row in found
    ]
    coded = _coded(silent, threads, question=QUESTION_LEVEL, answer=None)
    return dict(zip((place for place, _ in found), coded, strict=True))


def _coded(
    rows: Sequence[Row], threads: int, *, question: float | None, answer: float | None
) -> list[Row]:
    """Code the sounds of rows anew; without a level, a sound is left out."""

    def sound(given: Sound | None, level: float | None) -> Any:
        if given is None or level is None:
            return None
        path = Path(given.path or "sound").with_suffix(".opus").as_posix()
        return Sound(bytes=encode_opus(decode_flac(given.bytes, path), level), path=path)

    def code(row: Row) -> Row:
        return replace(
            row,
            question_audio=sound(row.question_audio, question),
            answer_audio=sound(row.answer_audio, answer),
            history=tuple(
                replace(turn, question_audio=sound(turn.question_audio, question))
                for turn in row.history
            ),
        )

    with ThreadPoolExecutor(threads) as pool:  # libsndfile works outside Python's lock
        return list(pool.map(code, rows))


def _chosen(source: Path, chosen: dict[str, set[int]]) -> Iterator[tuple[tuple[str, int], Row]]:
    for split, number, row in _rows(source, tuple(chosen), chosen=chosen):
        history = tuple(
            HistoryRow(**turn | {"question_audio": _sound(turn["question_audio"])})
            for turn in row["history"] or ()
        )
        fields: dict[str, Any] = row | {"history": history}
        for name in ("question_audio", "answer_audio"):
            fields[name] = _sound(row[name])
        yield (split, number), Row(**fields)


def _rows(
    source: Path,
    splits: Sequence[str],
    *,
    columns: list[str] | None = None,
    chosen: dict[str, set[int]] | None = None,
) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Yield split, number within it, and values of rows; row groups without chosen ones unread."""
    parquet = arrow("pyarrow.parquet")
    numbers = dict.fromkeys(splits, 0)
    for shard in read_shards(source):
        if shard.split not in numbers:
            continue
        check_shard(source, shard)
        file = parquet.ParquetFile(source / shard.file)
        for group in range(file.metadata.num_row_groups):
            first, size = numbers[shard.split], file.metadata.row_group(group).num_rows
            numbers[shard.split] += size
            places = range(first, first + size)
            wanted = [i for i in places if chosen is None or i in chosen[shard.split]]
            if wanted:
                table = file.read_row_group(group, columns=columns)
                for row, place in zip(
                    table.take([i - first for i in wanted]).to_pylist(), wanted, strict=True
                ):
                    yield shard.split, place, row


def _write(source: Path, target: Path, rows: dict[str, list[Row]]) -> None:
    """Write a data set with the manifest of the one that it is drawn from."""
    shutil.rmtree(target, ignore_errors=True)
    manifest = read_manifest(source)
    manifest["shards"] = []
    for split, found in rows.items():
        for number, start in enumerate(range(0, len(found), ROWS_PER_SHARD)):
            part = found[start : start + ROWS_PER_SHARD]
            name = shard_name(split, number)
            manifest["shards"].append(asdict(write_shard(target, name, split, part)))
    manifest["counts"] = {split: len(found) for split, found in rows.items()}
    if (source / "units").is_dir():
        shutil.copytree(source / "units", target / "units")
    write_manifest(target, manifest)


def _sound(value: dict[str, Any] | None) -> Sound | None:
    return None if value is None or value["bytes"] is None else Sound(**value)


def _by_split(places: Sequence[tuple[str, int]]) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for split, number in places:
        found.setdefault(split, set()).add(number)
    return found


def _bytes(row: Row) -> int:
    sounds = (row.question_audio, *(turn.question_audio for turn in row.history))
    return _ROW_BYTES + sum(len(sound.bytes) for sound in sounds if sound is not None)
