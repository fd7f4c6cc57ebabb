"""Whose folder this is: new, of this recipe, complete, or of somebody else."""

import fcntl
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llama_omni.data.journal import Journal
from llama_omni.data.origin import Origin, changed_origin
from llama_omni.data.recipe import BuildRecipe, differences
from llama_omni.data.shards import MANIFEST, check_shard, forget_shards, read_manifest, read_shards
from llama_omni.data.stages import STAGES, WORK
from llama_omni.errors import ConfigError, InputError, OutputError

logger = logging.getLogger(__name__)

_SHOWN = 5  # changed fields that a refusal names
_FIRST_READ = {  # the beginning of a field's name: the stage that reads it first; else the source
    "rewrite": "rewrite",
    "language": "rewrite",
    "chat.": "rewrite",  # or where it answers alone, see `_has_read`
    "respond": "respond",
    "voices.": "synthesise",
    "filters.max_question_s": "synthesise",  # longer texts are not spoken
    "filters.max_answer_s": "synthesise",
    "filters.duplicates": "source",
    "filters.": "filter",
    "units.": "fit",
    "rows_per_shard": "write",
}


# How a server is asked, not what: these change no text, and may change at any time.
_FREE = tuple(
    f"chat.{name} "
    for name in (
        *("api_key_env", "concurrency", "requests_per_minute", "tries", "cache"),
        *("input_price", "output_price"),
    )
)
_DONE_AGAIN = ("filter", "write")  # quick beside what was done before them
_PLACE = re.compile(r"sources\.(\d+)\.path ")
_READ_SPLIT = re.compile(r"sources\.(\d+)\.hub_split ")


def finished_before(
    recipe: BuildRecipe, output: Path, origins: Sequence[Origin]
) -> dict[str, Any] | None:
    """Refuse a folder of something else; return the manifest of a data set that is complete.

    An unfinished build may go on with other fields, as long as no stage that reads them has
    finished a part; where only the last two stages read them, these are done again.

    Args:
        recipe: Of this run.
        output: The folder.
        origins: The files of the recipe's sources, as they are now.

    Raises:
        ConfigError: It was begun with another recipe.
        InputError: It was made from other files.
        OutputError: It is no folder for a data set.
    """
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output} must be a folder, got a file")
    journal = Journal(output / WORK)
    complete = (output / MANIFEST).exists()
    if complete:
        manifest = read_manifest(output)
        before, wanted, made_from = manifest["recipe"], recipe.published(), manifest.get("sources")
    else:
        before, wanted = journal.noted("recipe"), recipe.as_json()
        made_from = (journal.noted("source") or {}).get("origins")
    if before is None and output.exists():
        strange = [path.name for path in output.iterdir() if path.name != WORK]
        if strange:
            raise OutputError(
                f"{output} must be new, empty or of an earlier run, got one with {strange[0]}"
            )
    changed = [] if before is None else differences(before, wanted)
    changed = [field for field in changed if not field.startswith(_FREE)]
    splits = {field: _READ_SPLIT.match(field) for field in changed}
    paths = [Path(source.path) for source in recipe.sources]  # a file is read whole
    changed = [field for field, at in splits.items() if not (at and paths[int(at[1])].is_file())]
    file = changed_origin(made_from or (), origins)
    if file is None:  # of a source with the same files it is no matter where they lie
        same = {one["number"] for one in made_from or ()} & {one["number"] for one in origins}
        places = {field: _PLACE.match(field) for field in changed}
        changed = [field for field, at in places.items() if not (at and int(at[1]) in same)]
    if changed := [field for field in changed if complete or _has_read(journal, field)]:
        shown = ", ".join(changed[:_SHOWN]) + (" and more" if len(changed) > _SHOWN else "")
        raise ConfigError(
            f"{output} must be built with the recipe it was begun with, got other values of "
            f"{shown}; choose another folder, or delete this one"
        )
    if file is not None and (complete or _has_read(journal, "sources")):
        raise InputError(
            f"{output} must be built from the files it was begun with, got {file}; choose another "
            "folder, or delete this one"
        )
    if not complete:
        return None
    try:
        for shard in read_shards(output):
            check_shard(output, shard)
    except InputError as error:
        logger.warning("a shard is damaged, building again: %s", error)
        return None
    return read_manifest(output)


def _has_read(journal: Journal, field: str) -> bool:
    """Whether a stage that reads a field, or a later one, has finished a part.

    The records of the source alone do not count: they are read again in no time.
    """
    first = _first_read(field)
    if first in _DONE_AGAIN:
        return False
    if field.startswith("chat.") and (journal.noted("recipe") or {}).get("rewrite") != "chat":
        first = "respond"
    stages = STAGES[STAGES.index(first) :] if first in STAGES else STAGES
    return any(journal.begun(stage) for stage in stages)


def _first_read(field: str) -> str:
    return next((stage for start, stage in _FIRST_READ.items() if field.startswith(start)), "")


def note_recipe(output: Path, recipe: BuildRecipe, origins: Sequence[Origin]) -> None:
    """Note what is built, and forget what was prepared for another recipe or from other files."""
    journal = Journal(output / WORK)
    before, now = journal.noted("recipe"), recipe.as_json()
    made_from = (journal.noted("source") or {}).get("origins")
    if before != now or changed_origin(made_from or (), origins):
        if not _has_read(journal, "sources"):
            journal.forget_note("source")
        if not _has_read(journal, "voices."):
            journal.forget_note("repeated")
            journal.forget_folder("spoken")
    changed = [] if before is None else [_first_read(field) for field in differences(before, now)]
    if again := [stage for stage in _DONE_AGAIN if stage in changed]:
        for stage in _DONE_AGAIN[_DONE_AGAIN.index(again[0]) :]:
            journal.forget_folder(stage)
        forget_shards(output)
    journal.note("recipe", now)


@contextmanager
def alone_in(output: Path) -> Iterator[None]:
    """Keep a second build out of the folder.

    Raises:
        OutputError: There is one, or the folder cannot be written to.
    """
    work = output / WORK
    try:
        work.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(work / "lock", os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise OutputError(f"{output} must be a writable folder, got: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise OutputError(f"{output} must be built by one run at a time, got a second") from error
    try:
        yield
    finally:
        os.close(descriptor)
