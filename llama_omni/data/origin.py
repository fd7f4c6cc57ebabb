"""Which files a data set is made from, so that a change of one is noticed.

Sound that a source names is not looked at, nor what lies on a hub.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from llama_omni.data.shards import sha256
from llama_omni.data.sources import Source
from llama_omni.data.tables import files_of
from llama_omni.errors import InputError

Origin = dict[
    str, Any
]  # number and name of its source, file, bytes, sha256; as JSON holds it, without where it lies


def read_origins(sources: Iterable[Source]) -> list[Origin]:
    """Return the size and hash of every file of the sources that is there.

    Raises:
        InputError: One cannot be read.
    """
    found: list[Origin] = []
    for number, source in enumerate(sources):
        place = Path(source.path)
        for file in files_of(place, source.hub_split) if source.path else ():
            if not file.is_file():  # a pipe gives what it holds only once
                continue
            name = file.relative_to(place) if place.is_dir() else Path(file.name)
            try:
                size, digest = file.stat().st_size, sha256(file)
            except OSError as error:
                raise InputError(f"{file} must be readable, got: {error.strerror}") from error
            found.append(
                {
                    "number": number,
                    "source": source.label,
                    "file": str(name),
                    "bytes": size,
                    "sha256": digest,
                }
            )
    return found


def changed_origin(before: Sequence[Origin], now: Sequence[Origin]) -> str | None:
    """Say which file is another than before, or None; one that was taken away since is no matter.

    A data set from before they were noted has none, and none of its files has changed.
    """
    known = {(one["number"], one["file"]): one for one in before}
    for one in now if before else ():
        old = known.get((one["number"], one["file"]))
        if old is None:
            return f"{one['file']} of source {one['source']}, which is new"
        if old != one:
            return (
                f"{one['file']} of source {one['source']}, which has {one['bytes']:,} bytes and "
                f"SHA-256 {one['sha256'][:12]}, where it had {old['bytes']:,} and "
                f"{old['sha256'][:12]}"
            )
    return None
