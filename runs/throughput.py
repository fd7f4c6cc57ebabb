"""Measure how fast data sets are built and stages are trained, and what 200K records would take.

`python runs/throughput.py -o benchmarks/results` builds the same few records with 1, 2 and 4
processes in turn, several rounds of it, then trains both stages for some steps. Writes
throughput-NAME.md and .json. For numbers worth keeping, nothing else may run on the machine;
`--train 1b` needs the memory of its weights, gradients and optimiser, and is left out where there
is less.

Processes of a build import this file, so what takes seconds to import is imported inside.
"""

import argparse
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llama_omni.errors import ConfigError, LlamaOmniError

REFUSED = 2  # exit code
DATA, TRAIN, NONE = "data", "train", "none"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and return the exit code: 0, or 2 where something was refused."""
    parser = argparse.ArgumentParser(prog="python runs/throughput.py", description=__doc__)
    add = parser.add_argument
    add("-o", "--output", type=Path, required=True, metavar="FOLDER", help="gets .md and .json")
    add("--name", help="of the two files, behind throughput- (what is trained, and where)")
    add("--only", choices=(DATA, TRAIN), help="one half of it")
    add("--records", type=int, default=512, metavar="N", help="of each build (512)")
    add("--processes", default="1,2,4", metavar="N,N", help="of the builds (1,2,4)")
    add("--rounds", type=int, default=3, metavar="N", help="of everything, in turn (3)")
    add("--recipe", default="tiny", help="of the data, its first source (tiny)")
    add("--source", action="append", default=[], help="as in `llama-omni data build`")
    add("--set", action="append", default=[], dest="settings", help="of the data's recipe")
    add("--train", default="tiny", help="recipe whose stages are trained: tiny, 1b (tiny)")
    add("--train-set", action="append", default=[], help="changes a field of that recipe")
    add("--data", type=Path, metavar="FOLDER", help="what to train on; none: what was built")
    add("--steps", type=int, default=10, metavar="N", help="timed in each round (10)")
    add("--warm-up", type=int, default=3, metavar="N", help="steps before them (3)")
    add("--device", default="auto", help="of the stages: auto, cpu, cuda")
    add("--threads", type=int, metavar="N", help="CPU threads of the stages")
    add("--work", type=Path, metavar="FOLDER", help="where builds lie meanwhile")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("throughput").setLevel(logging.INFO)
    command = shown(sys.argv[1:] if arguments is None else arguments)
    try:
        counts = _checked(options)
        with tempfile.TemporaryDirectory(dir=options.work, prefix="throughput-") as work:
            _measure(options, counts, Path(work), command)
    except LlamaOmniError as error:
        print(f"throughput: error: {' '.join(str(error).split())}", file=sys.stderr)
        return REFUSED
    return 0


def shown(arguments: Sequence[str]) -> str:
    """Return the command that repeats a run, with names in place of this machine's folders."""
    words = [Path(word).name if word.startswith(("/", "~")) else word for word in arguments]
    return " ".join(["python runs/throughput.py", *words])


def _checked(options: argparse.Namespace) -> list[int]:
    """Return the numbers of processes.

    Raises:
        ConfigError: An option is impossible, or two exclude each other.
    """
    for name in ("records", "rounds", "steps", "warm_up"):
        least = 0 if name == "warm_up" else 1
        if getattr(options, name) < least:
            given = getattr(options, name)
            raise ConfigError(f"--{name.replace('_', '-')} must be at least {least}, got {given}")
    counts = options.processes.split(",")
    if not all(count.isdecimal() and int(count) for count in counts):
        raise ConfigError(f"--processes must be numbers above 0, got {options.processes!r}")
    if options.only == TRAIN and options.data is None:
        raise ConfigError("--only train must be given --data, got none")
    if options.data is not None and not (options.data / "manifest.json").is_file():
        raise ConfigError(f"--data must be a data set's folder, got {options.data}")
    return [int(count) for count in counts]


def _measure(options: argparse.Namespace, counts: list[int], work: Path, command: str) -> None:
    from throughput_data import measure_builds
    from throughput_report import begin, finish, markdown, write

    from llama_omni.bench.report import check_folder
    from llama_omni.overrides import override
    from llama_omni.recipes import find_recipe

    check_folder(options.output)
    recipe = override(find_recipe(options.train), options.train_set)
    result: dict[str, Any] = begin(command)
    built = options.data
    if options.only != TRAIN:
        result["data"] = measure_builds(
            options.recipe,
            options.source,
            options.settings,
            records=options.records,
            processes=counts,
            rounds=options.rounds,
            work=work,
        )
        built = built or work / "set"
    if options.only != DATA:
        from throughput_train import TrainRun, measure_stages

        result["train"] = measure_stages(
            TrainRun(
                recipe=recipe,
                data=built,
                steps=options.steps,
                warm_up=options.warm_up,
                rounds=options.rounds,
                device=options.device,
                threads=options.threads,
                work=work / "runs",
            )
        )
    finish(result, options.device)
    name = options.name or f"{options.train}-{result['machine']['device']}"
    write(result, options.output, f"throughput-{name}")
    print(markdown(result))


if __name__ == "__main__":
    sys.exit(main())
