"""The results folder: what was asked, what came back, what was measured. Killed, it loses nothing.

Lines are only ever added; a last one that was cut off in the writing is dropped when the folder is
opened again, and its work done again.
"""

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llama_omni import audio
from llama_omni.errors import InputError, OutputError
from llama_omni.evaluate.records import EvalItem, EvalSet, ReplyRow
from llama_omni.files import write_text
from llama_omni.interfaces import Audio

RUN, ITEMS, REPLIES, SCORES = "run.json", "items.jsonl", "replies.jsonl", "scores.json"

# What must be the same for a folder to be gone on with; the others may change from run to run.
_FIXED = ("system", "set", "limit", "seed", "batch", "max_new_tokens", "device", "dtype", "threads")
_LOCK = ".lock"


class Results:
    """A results folder that is being filled.

    Args:
        folder: a new one, or that of an earlier run of the same system on the same items.
        test_set: what is asked.
        items: of it, those that are asked.
        run: how; of the fields of an earlier run those that fix its results must be the same.

    Raises:
        InputError: the folder belongs to another run, or to none.
        OutputError: it cannot be written, or another run is filling it.
    """

    def __init__(
        self,
        folder: Path,
        test_set: EvalSet,
        items: Sequence[EvalItem],
        run: Mapping[str, Any],
    ) -> None:
        self.folder, self._set = folder, test_set
        self.names = file_names(items)
        self._questions: set[str] = set()  # whose sounds are kept
        known = {
            "name": test_set.name,
            "notes": [*test_set.notes],
            "fingerprint": _hash(items),
        }
        run = {**run, "set": known}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._check_ours()  # before anything is written or cleared away in it
            with self.alone():
                self._begin(run, items)
                self.rows = self._earlier({item.id for item in items})
        except OSError as error:
            raise OutputError(f"{folder} must be writable, got: {error.strerror}") from error

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep a second run out of the folder.

        Raises:
            OutputError: there is one.
        """
        descriptor = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise OutputError(
                    f"{self.folder} must be filled by one run at a time, got a second"
                ) from error
            for part in self.folder.rglob(".*.part"):  # of files that a kill left unfinished
                part.unlink(missing_ok=True)
            yield
        finally:
            os.close(descriptor)

    def add(self, row: ReplyRow) -> None:
        """Keep one reply; its sound is kept already."""
        add_line(self.folder / REPLIES, row.to_json())
        self.rows[row.key] = row

    def keep_question(self, item: EvalItem, sound: Audio) -> None:
        """Keep the sound of a question, for those who listen to the report."""
        file = self.folder / self._question(item)
        if item.id not in self._questions:
            self._save(file, sound, audio.SAMPLE_RATE)
            self._questions.add(item.id)

    def keep_sound(self, item: EvalItem, condition: str, sound: Audio, rate: int) -> str:
        """Keep the sound of a reply; return its file's name relative to the folder."""
        name = f"audio/{condition}/{self.names[item.id]}.flac"
        self._save(self.folder / name, sound, rate)
        return name

    def _save(self, file: Path, sound: Audio, rate: int) -> None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{file.parent} must be writable: {error.strerror}") from error
        audio.save(file, sound, rate)

    def _question(self, item: EvalItem) -> str:
        return f"questions/{self.names[item.id]}.flac"

    def _check_ours(self) -> None:
        if (self.folder / RUN).is_file():
            return
        # Killed before run.json was whole, a run leaves its items and parts of files.
        if any(path.name not in (ITEMS, _LOCK) for path in _visible(self.folder)):
            raise InputError(
                f"{self.folder} must be a new folder or one of an earlier evaluation, "
                "got one with other files in it"
            )

    def _earlier(self, wanted: set[str]) -> dict[tuple[str, str], ReplyRow]:
        """Read the replies of an earlier run; one that failed is asked for again."""
        file = self.folder / REPLIES
        rows = [ReplyRow.from_json(line) for line in read_lines(file, mend=True)]
        good = {row.key: row for row in rows if row.item in wanted and row.error is None}
        if len(good) < len(rows):
            write_text(file, _dumped(row.to_json() for row in good.values()))
        return good

    def _begin(self, run: Mapping[str, Any], items: Sequence[EvalItem]) -> None:
        file = self.folder / RUN
        if not file.is_file() or not (self.folder / REPLIES).is_file():
            # What was never answered binds nobody: a name may be mended in the same folder.
            conditions = run.get("conditions", [])
        else:
            earlier = read_run(self.folder)
            changed = [
                f"{name} ({json.dumps(earlier.get(name))}, now {json.dumps(run.get(name))})"
                for name in _FIXED
                if _plain(earlier.get(name)) != _plain(run.get(name))
            ]
            if changed:
                raise InputError(
                    f"{self.folder} holds another evaluation; it differs in {'; '.join(changed)}; "
                    "choose another folder"
                )
            both = [*earlier.get("conditions", []), *run.get("conditions", [])]
            conditions = [*dict.fromkeys(both)]
        lines = ({**asdict(item), "question": self._question(item)} for item in items)
        write_text(self.folder / ITEMS, _dumped(lines))
        text = json.dumps({**run, "conditions": conditions}, indent=1) + "\n"
        write_text(file, text)


def read_run(folder: Path) -> dict[str, Any]:
    """Return how a results folder was made.

    Raises:
        InputError: it is none.
    """
    return read_object(folder / RUN)


def digest(value: Any) -> str:
    """Return a short hash of what `json.dumps` takes."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_object(file: Path) -> dict[str, Any]:
    """Read a JSON object of a results folder.

    Raises:
        InputError: there is none.
    """
    _check(file)
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file} must be JSON, but is not: {error}") from error
    if not isinstance(found, dict):
        raise InputError(f"{file} must hold a JSON object")
    return found


def read_lines(file: Path, *, mend: bool = False) -> Iterator[dict[str, Any]]:
    """Read JSON lines; a last one that was cut off in the writing is left out.

    Args:
        file: of a results folder.
        mend: the file is about to be written to: a missing one has no lines, and what was cut off
            is cut away.

    Raises:
        InputError: it is missing, or another line is no JSON object.
    """
    if mend and not file.is_file():
        return
    _check(file)
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        try:
            if not line.endswith("\n"):
                raise ValueError("the line does not end")
            found = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                if mend:
                    write_text(file, "".join(lines[:-1]))
                return
            raise InputError(f"{file}:{number} must be JSON, but is not: {error}") from error
        if isinstance(found, dict):
            yield found


def add_line(file: Path, value: Mapping[str, Any]) -> None:
    """Add a JSON line.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(value) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise OutputError(f"{file} must be writable, got: {error.strerror}") from error


def write_object(file: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    write_text(file, json.dumps(value, indent=1) + "\n")


def file_names(items: Sequence[EvalItem]) -> dict[str, str]:
    """Give each item a file name: its id where that is one, else made safe and told apart."""
    names = {}
    for item in items:
        safe = re.sub(r"[^\w.-]+", "_", item.id, flags=re.ASCII).strip(".")[:80]
        if safe != item.id:
            safe = f"{safe}-{hashlib.sha256(item.id.encode()).hexdigest()[:8]}"
        names[item.id] = safe
    return names


def _visible(folder: Path) -> Iterator[Path]:
    """Yield what lies in a folder, but for unfinished parts of files."""
    for path in folder.iterdir():
        if not (path.name.startswith(".") and path.name.endswith(".part")):
            yield path


def _check(file: Path) -> None:
    if not file.is_file():
        raise InputError(
            f"{file.parent} must be a results folder of `llama-omni evaluate`, "
            f"but has no {file.name}"
        )


def _dumped(lines: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(line) + "\n" for line in lines)


def _hash(items: Sequence[EvalItem]) -> str:
    return hashlib.sha256(json.dumps([asdict(item) for item in items]).encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))
