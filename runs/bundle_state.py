"""What a run has learnt so far, as pieces small enough to be given back, and joined again.

A state is cut into groups: what a part has become, its newest checkpoint, its best so far. Groups
that the receiver holds already are not sent again, and the least wanted stay behind where not all
fit. Floats shrink by a sixth once their bytes lie by place: exponents together, then mantissas.
"""

import hashlib
import io
import json
import shutil
import tarfile
import zlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llama_omni.data.shards import sha256
from llama_omni.errors import InputError, OutputError
from llama_omni.files import write_bytes, write_text

MIB = 1 << 20
INDEX = "state.json"
# Each part reads what those before it have become; the order keeps what travels small.
READERS = {
    "tokenizer": ("lm", "encoder"),
    "vocoder": (),
    "lm": ("stage1",),
    "encoder": ("stage1",),
    "stage1": ("stage2",),
    "stage2": (),
}
PARTS = tuple(READERS)
_NOTES = ("settings.json", "metrics.jsonl", "done.json", "tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a machine gives back, or takes."""

    num_bytes: int = 64 * MIB  # of all files
    piece: int = 16 * MIB - 1  # of each
    files: int = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Files of one part that travel together."""

    part: str
    kind: str  # "product", "checkpoint" or "best"
    files: dict[str, Path]  # by their names within the state
    wanted: int  # 0: the work that is left cannot do without

    @property
    def name(self) -> str:
        """What it is called in an index."""
        return f"{self.part}.{self.kind}"

    def digest(self) -> str:
        """Return a hash of names and contents."""
        lines = (f"{name} {sha256(path)}\n" for name, path in self.files.items())
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def is_done(run: Path) -> bool:
    """Whether a part is trained to its end."""
    return any((run / name).is_file() for name in ("done.json", "tokenizer.json"))


def product(run: Path) -> Path:
    """Return what a part has become: its best, or its last where nothing was held out."""
    return run / "best" if (run / "best").is_dir() else run / "final"


def groups_of(state: Path, done: Collection[str] = ()) -> list[Group]:
    """Return what a folder of runs holds, most wanted first.

    Args:
        state: a folder for each part.
        done: parts that are finished elsewhere.
    """
    over = {part for part in PARTS if part in done or is_done(state / part)}
    found: list[Group] = []
    for part in PARTS:
        run = state / part
        notes = [run / name for name in _NOTES if (run / name).is_file()]
        if part in over:
            spare = bool(READERS[part]) and over.issuperset(READERS[part])
            kinds = {"product": ([*notes, *_below(product(run))], 3 if spare else 0)}
        else:
            whole = sorted((run / "checkpoints").glob("step-*/COMPLETE"))
            newest = _below(whole[-1].parent) if whole else []
            kinds = {"checkpoint": ([*notes, *newest], 1)} if newest else {}
            kinds["best"] = (_below(run / "best") if newest else [], 2)
        for kind, (paths, wanted) in kinds.items():
            files = {path.relative_to(state).as_posix(): path for path in paths}
            if files:
                found.append(Group(part=part, kind=kind, files=files, wanted=wanted))
    # Of two that are as much wanted, the later part: it was made of the earlier.
    return sorted(reversed(found), key=lambda group: group.wanted)


def write_state(
    groups: Sequence[Group],
    target: Path,
    *,
    run: str,
    done: Iterable[str],
    known: Collection[str] = (),
    limits: Limits | None = None,
) -> dict[str, Any]:
    """Write what fits of a state as pieces and their index, and return the index.

    Args:
        groups: most wanted first.
        target: a folder; pieces of an earlier state in it are replaced.
        run: tells this run's states from another's.
        done: parts that are finished.
        known: digests of groups that the receiver has.
        limits: of the pieces, index included.
    """
    limits = limits or Limits()
    room = min(limits.num_bytes, (limits.files - 1) * limits.piece) - MIB // 8  # for the index
    index: dict[str, Any] = {"format": 1, "run": run, "done": sorted(done)}
    index |= {"groups": [], "pieces": [], "left_out": []}
    blobs: list[bytes] = []
    for group in groups:
        if (digest := group.digest()) in known:
            continue
        blob = _squeeze(_tar(group))
        entry = {"part": group.part, "kind": group.kind, "bytes": len(blob)}
        if len(blob) > room:
            index["left_out"].append(entry)
            continue
        room -= len(blob)
        blobs.append(blob)
        index["groups"].append(entry | {"digest": digest, "sha256": _hash(blob)})
    for old in target.glob("state-*.bin"):
        old.unlink()
    stream = b"".join(blobs)
    for number, start in enumerate(range(0, len(stream), limits.piece)):
        piece = stream[start : start + limits.piece]
        name = f"state-{number:03d}.bin"
        write_bytes(target / name, piece)
        index["pieces"].append({"file": name, "bytes": len(piece), "sha256": _hash(piece)})
    write_text(target / INDEX, json.dumps(index, indent=1) + "\n")
    return index


def read_index(pieces: Path) -> dict[str, Any]:
    """Return what a folder of pieces says of itself.

    Raises:
        InputError: it holds no state.
    """
    path = pieces / INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        found = index["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} must be the index of a state, got: {error}") from error
    if found != 1:
        raise InputError(f"{path} must have format 1, got {found!r}")
    return index


def join(pieces: Path, state: Path) -> dict[str, Any]:
    """Check pieces and put their groups in place of older ones; return the index.

    Raises:
        InputError: a piece is missing, cut or changed, or the state is another run's.
    """
    index = read_index(pieces)
    mark = state / INDEX
    if mark.exists() and (before := json.loads(mark.read_text())["run"]) != index["run"]:
        raise InputError(
            f"{state} must be new or of run {index['run'][:12]}, got one of {before[:12]}"
        )
    stream = b"".join(_checked(pieces, entry) for entry in index["pieces"])
    start, blobs = 0, []
    for entry in index["groups"]:
        blobs.append(stream[start : (start := start + entry["bytes"])])
        if _hash(blobs[-1]) != entry["sha256"]:
            raise InputError(f"{pieces} must be of one state, got others' pieces; copy them again")
    for entry in (*index["groups"], *index["left_out"]):
        _forget(state / entry["part"], entry["kind"])
    state.mkdir(parents=True, exist_ok=True)
    for blob in blobs:
        with tarfile.open(fileobj=io.BytesIO(_unsqueeze(blob))) as archive:
            archive.extractall(state, filter="data")
    names = ("run", "done")
    write_text(mark, json.dumps({name: index[name] for name in names}) + "\n")
    return index


def _checked(pieces: Path, entry: dict[str, Any]) -> bytes:
    path = pieces / entry["file"]
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} must be readable, got: {error.strerror}") from error
    if len(data) != entry["bytes"] or _hash(data) != entry["sha256"]:
        raise InputError(f"{path} must be as it was written, got other bytes; copy it again")
    return data


def _forget(run: Path, kind: str) -> None:
    """Remove what a newer group replaces, or what is older than a group that stayed behind."""
    place = {"product": run, "checkpoint": run / "checkpoints", "best": run / "best"}[kind]
    try:
        if place.exists():
            shutil.rmtree(place)
    except OSError as error:
        raise OutputError(f"{place} must be writable, got: {error.strerror}") from error


def _below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _tar(group: Group) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, path in group.files.items():
            member = tarfile.TarInfo(name)  # no times and owners: equal files give equal bytes
            member.size = path.stat().st_size
            with path.open("rb") as file:
                archive.addfile(member, file)
    return sink.getvalue()  # of whole blocks, so of whole floats


def _squeeze(data: bytes) -> bytes:
    return zlib.compress(np.frombuffer(data, np.uint8).reshape(-1, 4).T.tobytes(), 1)


def _unsqueeze(data: bytes) -> bytes:
    return np.frombuffer(zlib.decompress(data), np.uint8).reshape(4, -1).T.tobytes()
