"""Run the benchmarks: `python -m benchmarks.run --preset tiny -o benchmarks/results`.

The same as `llama-omni bench`, with a few options more that a published run needs.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from llama_omni.bench import run_bench
from llama_omni.errors import LlamaOmniError

REFUSED = 2  # exit code


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, show the tables, and return the exit code: 0, or 2 where something was refused."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    add = parser.add_argument
    add("--preset", default="tiny", help="a size by its name: tiny, 1b, 8b")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    add("--dtype", default="auto", help="auto, float32, bfloat16, float16")
    add("-o", "--output", type=Path, metavar="FOLDER", help="where JSON, tables and plot go")
    add("--quick", action="store_true", help="fewer lengths and rounds")
    add("--repeats", type=int, metavar="N", help="rounds of everything")
    add("--tokens", type=int, metavar="N", help="tokens of a reply")
    add("--loadings", type=int, metavar="N", help="loadings from a folder; 0 writes none")
    add("--threads", type=int, metavar="N", help="CPU threads")
    add("--question", type=Path, metavar="FILE", help="a spoken question for (a)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("llama_omni.bench").setLevel(logging.INFO)
    try:
        run_bench(**vars(options))
    except LlamaOmniError as error:
        print(f"benchmarks: error: {' '.join(str(error).split())}", file=sys.stderr)
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
