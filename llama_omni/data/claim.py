"""Whose folder this is: new, of this recipe, complete, or of somebody else."""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llama_omni.data.journal import Journal
from llama_omni.data.recipe import BuildRecipe, differences
from llama_omni.data.shards import MANIFEST, check_shard, read_manifest, read_shards
from llama_omni.data.stages import WORK
from llama_omni.errors import ConfigError, InputError, OutputError

logger = logging.getLogger(__name__)

_SHOWN = 5  # changed fields that a refusal names


def finished_before(recipe: BuildRecipe, output: Path) -> dict[str, Any] | None:
    """Refuse a folder of something else; return the manifest of a data set that is complete.

    Raises:
        ConfigError: It was begun with another recipe.
        OutputError: It is no folder for a data set.
    """
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output} must be a folder, got a file")
    complete = (output / MANIFEST).exists()
    if complete:
        before, wanted = read_manifest(output)["recipe"], recipe.published()
    else:
        before, wanted = Journal(output / WORK).noted("recipe"), recipe.as_json()
    if before is None and output.exists():
        strange = [path.name for path in output.iterdir() if path.name != WORK]
        if strange:
            raise OutputError(
                f"{output} must be new, empty or of an earlier run, got one with {strange[0]}"
            )
    if before is not None and (changed := differences(before, wanted)):
        shown = ", ".join(changed[:_SHOWN]) + (" and more" if len(changed) > _SHOWN else "")
        raise ConfigError(
            f"{output} must be built with the recipe it was begun with, got other values of "
            f"{shown}; choose another folder, or delete this one"
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
