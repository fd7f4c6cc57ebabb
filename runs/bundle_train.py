"""One slice of training from a bundle: parts in their order, until the time of a call is over."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bundle_state import INDEX, PARTS, groups_of, is_done, join, product, read_index, write_state

from llama_omni.errors import InputError, TrainingError
from llama_omni.files import write_text

BUNDLE = "bundle.json"
GRACE_S = 2.0  # that a part may take to stop by itself; loading is no part of its own clock
SAVING_S = 30.0  # for a checkpoint after that
INTERRUPTED = 130
STOPPED = (0, INTERRUPTED)  # exit codes of a part that is done or out of time

Run = Callable[[list[str], float], int]


def train_slice(
    bundle: Path,
    work: Path,
    out: Path,
    *,
    seconds: float,
    run: Run | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> bool:
    """Train for so many seconds and leave the state in `out`; return whether all is done.

    Args:
        bundle: made by `pack`.
        work: runs of an earlier slice where they were kept, else empty.
        out: gets pieces that `unpack` joins.
        seconds: of training. The state is written after them: leave a minute for it.
        run: runs a command for so many seconds and returns its exit code.
        clock: gives seconds.

    Raises:
        InputError: the bundle is no bundle, or the work is another bundle's.
        TrainingError: a part failed; what others learnt is in `out`.
    """
    end = clock() + seconds
    described = read_bundle(bundle)
    known = _restore(bundle, work, described["run"])
    done = set(described["done"]) | {part for part in PARTS if is_done(work / part)}
    failed = ""
    for part in PARTS:
        left = end - clock()
        if part in done:
            continue
        if left <= 0:
            break
        if part == "tokenizer":  # takes no half folder of a killed call
            shutil.rmtree(work / part, ignore_errors=True)
        command = part_command(part, bundle, work, described["settings"], left)
        code = (run or run_command)(command, left)
        if is_done(work / part):
            done.add(part)
            continue
        failed = "" if code in STOPPED else f"{part} ended with status {code}"
        break
    index = write_state(groups_of(work, done), out, run=described["run"], done=done, known=known)
    for entry in index["left_out"]:
        print(f"bundle: no room for {entry['part']}.{entry['kind']}", file=sys.stderr)
    unfinished = [part for part in PARTS if part not in done]
    print(f"bundle: done: {', '.join(p for p in PARTS if p in done) or 'nothing yet'}")
    print(f"bundle: to do: {', '.join(unfinished) or 'nothing'}")
    if failed:
        raise TrainingError(f"every part must be trained, got: {failed}; see its message above")
    return not unfinished


def read_bundle(bundle: Path) -> dict[str, Any]:
    """Return what a bundle says of itself: run, settings, done.

    Raises:
        InputError: it is none.
    """
    try:
        described = json.loads((bundle / BUNDLE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{bundle} must be a bundle that `pack` made, got: {error}") from error
    return described


def part_command(
    part: str, bundle: Path, work: Path, settings: list[str], seconds: float
) -> list[str]:
    """Return the command that trains a part for so many seconds, or goes on with it."""
    data, run = ["--data", str(bundle / "data")], ["-o", str(work / part)]
    tokenizer = ["--tokenizer", str(work / "tokenizer")]
    fields = {"tensorboard": "false", "stop_after_s": f"{seconds:.3f}"}
    match part:
        case "tokenizer":
            words, prefix, fields = [part, *run], "", {}
        case "vocoder":
            words, prefix = [part, "--data", str(bundle / "answers"), *run], "training."
        case "lm":
            words, prefix = [part, *tokenizer, *run], "training."
        case "encoder":
            words, prefix = [part, *data, *tokenizer, *run], "training."
        case _:
            if part == "stage1":
                begin = ["--llm", str(product(work / "lm"))]
                begin += ["--encoder", str(product(work / "encoder"))]
            else:
                begin = ["--model", str(product(work / "stage1"))]
            words, prefix = (
                ["tiny", "--stage", part[-1], *data, *begin, "-o", str(work)],
                f"{part}.",
            )
    chosen = [f"{prefix}{name}={value}" for name, value in fields.items()]
    for setting in settings:
        owner, _, field = setting.partition(".")
        if owner == part:
            chosen.append(setting if part.startswith("stage") else field)
    sets = [word for text in chosen for word in ("--set", text)]
    return [sys.executable, "-m", "llama_omni.cli", "train", *words, *sets]


def run_command(command: list[str], seconds: float) -> int:
    """Run a command; ask it to save and stop when its time is over, and end it if it does not."""
    with subprocess.Popen(command) as process:
        try:
            return process.wait(timeout=seconds + GRACE_S)
        except subprocess.TimeoutExpired:
            process.terminate()
        try:
            process.wait(timeout=SAVING_S)
        except subprocess.TimeoutExpired:
            process.kill()
        return INTERRUPTED


def _restore(bundle: Path, work: Path, run: str) -> set[str]:
    """Put the bundle's state into an empty work folder; return the digests that it came with."""
    mark = work / INDEX
    index = read_index(bundle / "state") if (bundle / "state" / INDEX).exists() else None
    if mark.exists():
        if json.loads(mark.read_text())["run"] != run:
            raise InputError(f"{work} must be empty or of this bundle, got another bundle's work")
    elif index is not None:
        join(bundle / "state", work)
    else:
        write_text(mark, json.dumps({"run": run, "done": []}) + "\n")
    return set() if index is None else {entry["digest"] for entry in index["groups"]}
