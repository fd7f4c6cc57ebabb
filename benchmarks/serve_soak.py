"""Soak a server: `python -m benchmarks.serve_soak --seconds 600 -o benchmarks/results`.

Starts `llama-omni serve` with the model in the package, lets visitors come and go by chance, and
says whether anything grew or any rule of the protocol was broken.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from llama_omni.bench.soak import SoakSettings, run_soak
from llama_omni.errors import LlamaOmniError

ROOT = Path(__file__).parents[1]
NAME = "serve-soak-tiny-cpu-float32"
REFUSED, BROKEN = 2, 1  # exit codes


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak, print the verdict, and return 0 where every rule held, 1 where one did not."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve_soak", description=__doc__)
    add = parser.add_argument
    add("--seconds", type=float, default=600.0, help="that visitors come for")
    add("--visitors", type=int, default=6, help="at a time")
    add("--seed", type=int, default=0)
    add("-o", "--output", type=Path, default=ROOT / "benchmarks/results", metavar="FOLDER")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        settings = SoakSettings(
            output=options.output / NAME,
            seconds=options.seconds,
            visitors=options.visitors,
            seed=options.seed,
        )
        command = f"python -m benchmarks.serve_soak --seconds {options.seconds:g}"
        command += f" --visitors {options.visitors} --seed {options.seed}"
        result = run_soak(settings, question=ROOT / "examples/question.wav", command=command)
    except LlamaOmniError as error:
        print(f"benchmarks: error: {' '.join(str(error).split())}", file=sys.stderr)
        return REFUSED
    for rule in result["verdict"]:
        told = {True: "held", False: "BROKEN", None: "not judged"}[rule["held"]]
        print(f"{told}: {rule['rule']}: {rule['found']}")
    return BROKEN if any(rule["held"] is False for rule in result["verdict"]) else 0


if __name__ == "__main__":
    sys.exit(main())
