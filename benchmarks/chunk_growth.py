"""Growing chunks against fixed ones: `python -m benchmarks.chunk_growth -o benchmarks/results`.

The engine alone, with random weights; nothing but the core packages, and matplotlib for the plot.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from llama_omni.bench.serve.growth import GrowthSettings, measure_growth
from llama_omni.errors import LlamaOmniError

REFUSED, INTERRUPTED = 2, 130  # exit codes


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, show the table, and return the exit code: 0, 2 where something was refused."""
    default = GrowthSettings()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chunk_growth", description=__doc__)
    add = parser.add_argument
    add("--preset", default="tiny", help="a size by its name: tiny, 1b, 8b")
    add("--conversations", type=_numbers, default=default.conversations, metavar="N,N,...")
    add("--rounds", type=int, default=default.rounds, help="in which all take turns")
    add("--tokens", type=int, default=default.tokens, help="of each reply")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    add("--dtype", default="auto", help="auto, float32, bfloat16, float16")
    add("--threads", type=int, metavar="N", help="CPU threads")
    add("-o", "--out", "--output", dest="output", type=Path, metavar="FOLDER", help="for results")
    given = [*(sys.argv[1:] if arguments is None else arguments)]
    options = parser.parse_args(given)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    logging.getLogger("llama_omni.bench").setLevel(logging.INFO)
    words = ["FOLDER" if word == str(options.output) else word for word in given]
    try:
        measure_growth(
            GrowthSettings(
                conversations=options.conversations, rounds=options.rounds, tokens=options.tokens
            ),
            preset=options.preset,
            device=options.device,
            dtype=options.dtype,
            threads=options.threads,
            output=options.output,
            command=" ".join(["python -m benchmarks.chunk_growth", *words]),
        )
    except LlamaOmniError as error:
        print(f"chunk_growth: error: {' '.join(str(error).split())}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        print("chunk_growth: stopped; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    return 0


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
