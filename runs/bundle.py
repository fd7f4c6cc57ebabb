"""Train the tiny model on a machine without network that gives back files of at most 16 MiB.

python runs/bundle.py pack --data DATA -o bundle         here: data, wheels and a run.sh in 60 MiB
bundle/run.sh                                            there: train for some minutes
python runs/bundle.py unpack out -o state                here: check the pieces and join them
python runs/bundle.py pack --state state -o bundle       here: let the next call go on
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from bundle_data import Draw, draw_answers, draw_questions, size_of, without_split
from bundle_state import INDEX, MIB, PARTS, Limits, groups_of, is_done, join, write_state
from bundle_train import BUNDLE, read_bundle, train_slice

from llama_omni.errors import InputError, LlamaOmniError
from llama_omni.files import write_text

SCRIPT = Path(__file__).with_suffix(".sh")
SETTINGS = ("encoder.training.batch_size=36",)  # as runs/tiny.sh has it, over its processes
_SPARE = MIB // 4  # for names, the script, the index


def main(arguments: list[str] | None = None) -> int:
    """Run one verb."""
    options = _parser().parse_args(arguments)
    try:
        match options.verb:
            case "pack":
                pack(options)
            case "train":
                train_slice(options.bundle, options.work, options.output, seconds=options.seconds)
            case _:
                index = join(options.pieces, options.output)
                print(f"{options.output}: {_told(index)}")
    except (LlamaOmniError, OSError) as error:
        print(f"bundle: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def pack(options: Any) -> None:
    """Make a bundle, or put another state into one.

    Raises:
        InputError: it cannot fit, or what it is made from is not there.
    """
    target: Path = options.output
    limit = int(options.mib * MIB)
    begun = (target / BUNDLE).exists()
    if begun == (options.data is not None):
        raise InputError(
            f"{target} must be a new folder with --data, or a bundle without it, got "
            + ("a bundle and --data" if begun else "no bundle and no --data")
        )
    if begun and (options.settings or options.wheels):
        raise InputError("--set and --wheels must come with --data: a run keeps what it began with")
    if not begun:
        _begin(options, limit)
    if options.state is not None:
        _take_state(target, options.state, limit)
    size = size_of(target)
    if size > limit:
        raise InputError(f"{target} must have at most {options.mib:g} MiB, got {size / MIB:.1f}")
    described = read_bundle(target)
    print(f"{target}: {size / MIB:.1f} MiB, rows: {described['rows']}, done: {described['done']}")


def _begin(options: Any, limit: int) -> None:
    target: Path = options.output
    for setting in options.settings:
        if setting.partition(".")[0] not in PARTS or "=" not in setting:
            raise InputError(f"--set must be PART.KEY=VALUE of {', '.join(PARTS)}, got {setting!r}")
    target.mkdir(parents=True, exist_ok=True)
    wheels = sorted(options.wheels.glob("*.whl")) if options.wheels else []
    if options.wheels and not wheels:
        raise InputError(f"{options.wheels} must hold wheels, found none")
    num_bytes = sum(wheel.stat().st_size for wheel in wheels)
    room = limit - num_bytes - int(options.reserve * MIB) - _SPARE
    if room <= 0:
        raise InputError(
            f"--mib must have room for data, got {options.mib:g} MiB with {num_bytes / MIB:.1f} of "
            f"wheels and {options.reserve:g} reserved for states"
        )
    for wheel in wheels:
        (target / "wheels").mkdir(exist_ok=True)
        shutil.copyfile(wheel, target / "wheels" / wheel.name)
    draw = Draw(answers=options.answers, held_out=options.held_out, seed=options.seed)
    threads = options.threads or os.cpu_count() or 1
    rows = {"answers": draw_answers(options.data, target / "answers", draw, threads=threads)}
    rows |= draw_questions(
        options.data,
        target / "data",
        draw,
        num_bytes=room - size_of(target / "answers"),
        threads=threads,
    )
    shutil.copy(SCRIPT, target / "run.sh")
    settings = [*SETTINGS, *options.settings]
    manifests = [(target / name / "manifest.json").read_bytes() for name in ("data", "answers")]
    run = hashlib.sha256(b"".join(manifests) + json.dumps(settings).encode()).hexdigest()
    _describe(target, {"run": run, "settings": settings, "done": [], "rows": rows})


def _take_state(target: Path, state: Path, limit: int) -> None:
    """Put into a bundle what the parts that are left begin with; drop what only others read."""
    described = read_bundle(target)
    try:
        mark = json.loads((state / INDEX).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{state} must be a state that `unpack` made, got: {error}") from error
    if mark["run"] != described["run"]:
        raise InputError(f"{state} must be of the bundle's own run, got another's")
    done = [part for part in PARTS if part in mark["done"] or is_done(state / part)]
    if "vocoder" in done:
        shutil.rmtree(target / "answers", ignore_errors=True)
    if "encoder" in done:
        without_split(target / "data", "words")
    shutil.rmtree(target / "state", ignore_errors=True)
    _describe(target, described | {"done": done})
    results = ("vocoder", "stage2")  # which no other part begins with
    groups = [
        group
        for group in groups_of(state, done)
        if group.wanted < 3 and not (group.kind == "product" and group.part in results)
    ]
    room = limit - size_of(target) - _SPARE
    limits = Limits(num_bytes=room, files=1000)
    index = write_state(groups, target / "state", run=described["run"], done=done, limits=limits)
    kept = {(entry["part"], entry["kind"]) for entry in index["groups"]}
    lost = [group for group in groups if group.wanted < 2 and (group.part, group.kind) not in kept]
    if lost:
        names = ", ".join(group.name for group in lost)
        raise InputError(
            f"the state must fit beside the data, got {room / MIB:.1f} MiB of room without "
            f"{names}; make a new bundle with a greater --reserve, or delete a checkpoint of "
            f"{state} to begin its part anew"
        )


def _describe(target: Path, described: dict[str, Any]) -> None:
    write_text(target / BUNDLE, json.dumps(described, indent=1) + "\n")


def _told(index: dict[str, Any]) -> str:
    held = ", ".join(f"{entry['part']}.{entry['kind']}" for entry in index["groups"])
    return f"{held or 'nothing new'}; done: {', '.join(index['done']) or 'nothing yet'}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("pack", help="make a bundle, or put another state into one")
    one.add_argument("--data", type=Path, help="a data set; only for a new bundle")
    one.add_argument("-o", "--output", type=Path, required=True, help="the bundle's folder")
    one.add_argument("--mib", type=float, default=60.0, help="size of everything, at most")
    one.add_argument("--reserve", type=float, default=28.0, help="MiB kept free for states")
    one.add_argument("--wheels", type=Path, help="folder of wheels to take along")
    one.add_argument("--state", type=Path, help="what `unpack` made")
    one.add_argument("--answers", type=int, default=1500, help="with sound, for the vocoder")
    one.add_argument("--held-out", type=int, default=100, help="rows of each held-out split")
    one.add_argument("--seed", type=int, default=0, help="of the draw")
    one.add_argument("--threads", type=int, default=0, help="that code sound; 0: one a core")
    one.add_argument(
        "--set", dest="settings", action="append", default=[], metavar="PART.KEY=VALUE",
        help="a setting of a part, such as lm.training.max_steps=2000 or stage1.workers=4",
    )  # fmt: skip
    one = verbs.add_parser("train", help="what run.sh calls")
    one.add_argument("--bundle", type=Path, required=True)
    one.add_argument("--work", type=Path, required=True)
    one.add_argument("-o", "--output", type=Path, required=True)
    one.add_argument("--seconds", type=float, required=True)
    one = verbs.add_parser("unpack", help="check pieces and join them")
    one.add_argument("pieces", type=Path)
    one.add_argument("-o", "--output", type=Path, required=True)
    return parser


if __name__ == "__main__":
    sys.exit(main())
