"""What a build has done so far: the finished parts of each stage, and the records they refused.

A part is finished when its marker is there, which is written last. A build that was killed at any
point finds whole parts and their markers, and does the others again, with the same result.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llama_omni.data.items import Item, from_json, to_json
from llama_omni.data.records import Reject
from llama_omni.errors import InputError, OutputError
from llama_omni.files import write_bytes, write_text

_KEPT = "kept:"


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """The outcome of one part of one stage."""

    stage: str
    number: int
    records: int  # that went in
    rejects: tuple[Reject, ...] = ()
    seconds: float = 0.0  # it took one process
    facts: dict[str, Any] = field(default_factory=dict)  # what later stages want to know


class Journal:
    """The folder in which a build works."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, stage: str, number: int, suffix: str) -> Path:
        """Return a part's file."""
        return self.folder / stage / f"part-{number:05d}{suffix}"

    def write_items(self, stage: str, number: int, items: Iterable[Item]) -> None:
        """Write a part's records."""
        self.write_rows(stage, number, (to_json(item) for item in items))

    def read_items(self, stage: str, number: int) -> list[Item]:
        """Return a part's records."""
        return [from_json(row) for row in self.read_rows(stage, number)]

    def write_rows(self, stage: str, number: int, rows: Iterable[dict[str, Any]]) -> None:
        """Write one line of JSON for each row."""
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_text(self.path(stage, number, ".jsonl"), lines)

    def read_rows(self, stage: str, number: int) -> list[dict[str, Any]]:
        """Return what `write_rows` wrote."""
        path = self.path(stage, number, ".jsonl")
        try:
            # Not splitlines: a text may hold other line separators than a newline.
            return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path} must be what an earlier run of this build wrote, got: {error}; delete "
                f"{self.folder} and run it again"
            ) from error

    def keep_sound(self, data: bytes, name: str) -> str:
        """Keep a sound that a table holds; return what `kept_sound` finds it by."""
        digest = hashlib.sha256(data).hexdigest()
        name = re.sub(r"[^\w.-]", "_", name, flags=re.ASCII)[-80:]
        kept = f"{_KEPT}{digest[:2]}/{digest[:32]}-{name}"
        path = self.kept_sound(kept)
        if not path.exists():
            write_bytes(path, data)
        return kept

    def kept_sound(self, name: str) -> Path:
        """Return a sound's file: one that was kept, or a source's own."""
        kept = name.startswith(_KEPT)
        return self.folder / "sounds" / name.removeprefix(_KEPT) if kept else Path(name)

    def finish(self, part: Part) -> None:
        """Mark a part as finished; its files are there."""
        path = self.path(part.stage, part.number, ".done")
        write_text(path, json.dumps(asdict(part), ensure_ascii=False))

    def finished(self, stage: str, number: int) -> Part | None:
        """Return a part's outcome, or None where it is still to be done."""
        path = self.path(stage, number, ".done")
        try:
            found = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return Part(**(found | {"rejects": tuple(Reject(**row) for row in found["rejects"])}))

    def forget(self, stage: str, number: int) -> None:
        """Have a part done again."""
        self.path(stage, number, ".done").unlink(missing_ok=True)

    def begun(self, stage: str) -> bool:
        """Whether a part of a stage is finished."""
        return any((self.folder / stage).glob("part-*.done"))

    def parts(self, stage: str, numbers: Iterable[int]) -> Iterator[Part]:
        """Yield the outcomes of finished parts, in order."""
        for number in numbers:
            part = self.finished(stage, number)
            assert part is not None, f"stage {stage} is complete"
            yield part

    def note(self, name: str, value: Any) -> None:
        """Keep one fact about the whole build."""
        write_bytes(self.folder / f"{name}.json", json.dumps(value).encode())

    def noted(self, name: str) -> Any:
        """Return a fact, or None."""
        try:
            return json.loads((self.folder / f"{name}.json").read_text("utf-8"))
        except (OSError, ValueError):
            return None

    def forget_note(self, name: str) -> None:
        """Forget what `note` kept."""
        (self.folder / f"{name}.json").unlink(missing_ok=True)

    def forget_folder(self, name: str) -> None:
        """Delete a folder within this one, if it is there."""
        if (self.folder / name).exists():
            shutil.rmtree(self.folder / name)

    def drop(self) -> None:
        """Delete the folder.

        Raises:
            OutputError: it cannot be deleted.
        """
        try:
            shutil.rmtree(self.folder)
        except OSError as error:
            raise OutputError(f"{self.folder} must be deletable, got: {error.strerror}") from error
