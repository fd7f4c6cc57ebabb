"""Measure the tiny model: `python runs/tiny_results.py --model FOLDER --data FOLDER`.

Asks every held-out question aloud, has the answers recognised, and writes OUTPUT.md, .json, .png
and sounds under samples/. May be stopped at any time and started again: nothing is asked twice.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from llama_omni import load
from llama_omni.bench.tiny import TinySettings, fingerprint, measure_tiny, vocode_with
from llama_omni.data.shards import read_manifest
from llama_omni.errors import ConfigError, LlamaOmniError
from llama_omni.loading import EMBEDDED
from llama_omni.train.unit_counts import check_centres

REFUSED = 2  # exit code
WORK = Path(__file__).parent / "out" / "tiny-results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and return the exit code: 0, or 2 where something was refused."""
    parser = argparse.ArgumentParser(prog="python runs/tiny_results.py", description=__doc__)
    add = parser.add_argument
    add("--model", type=Path, help="a native folder; the embedded model if absent")
    add("--random-weights", action="store_true", help="the tiny preset, to try this script")
    add("--data", type=Path, required=True, help="the data set, with its held-out splits")
    add("-o", "--output", type=Path, default=Path("docs/results/tiny"), help="without suffix")
    add("--questions", type=Path, metavar="FOLDER", help="real recordings, out of domain")
    add("--limit", type=int, metavar="N", help="questions of each split, for a quick look")
    add("--heard", type=int, default=200, metavar="N", help="of them, recognised (200)")
    add("--samples", type=int, default=6, metavar="N", help="questions to listen to (6)")
    add("--max-new-tokens", type=int, default=256, metavar="N", help="of a reply (256)")
    add("--threads", type=int, default=1, metavar="N", help="CPU threads (1)")
    add("--work", type=Path, default=WORK, metavar="FOLDER", help="what is kept between runs")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("llama_omni.bench").setLevel(logging.INFO)
    try:
        _measure(options)
    except LlamaOmniError as error:
        print(f"tiny_results: error: {' '.join(str(error).split())}", file=sys.stderr)
        return REFUSED
    return 0


def _measure(options: argparse.Namespace) -> None:
    read_manifest(options.data)  # refused at once if there is none
    if options.random_weights:
        assistant = load(preset="tiny", random_weights=True, threads=options.threads)
        folder, name = None, "tiny preset, RANDOM weights"
    else:
        folder = EMBEDDED if options.model is None else options.model
        if not folder.is_dir():
            raise ConfigError(f"--model must be a folder, got {folder}")
        check_centres(folder, options.data)  # else unit errors and vocoded units mean nothing
        assistant = load(folder, threads=options.threads)
        name = "embedded" if options.model is None else folder.resolve().name
    settings = TinySettings(
        data=options.data,
        output=options.output,
        work=options.work / f"{fingerprint(folder, options.data)}-{options.max_new_tokens}",
        model_name=name,
        questions=options.questions,
        limit=options.limit,
        heard=options.heard,
        samples=options.samples,
        max_new_tokens=options.max_new_tokens,
    )
    measure_tiny(settings, assistant, vocode=vocode_with(assistant), command=_command(options))
    print(options.output.with_suffix(".md").read_text(encoding="utf-8"))


def _command(options: argparse.Namespace) -> str:
    """Return the command that repeats the run, with names in place of this machine's folders."""
    words = ["python runs/tiny_results.py"]
    words += [f"--model {options.model.resolve().name}"] if options.model else []
    words += ["--random-weights"] * options.random_weights
    words += [f"--data {options.data.resolve().name}"]
    words += [f"--questions {options.questions.resolve().name}"] if options.questions else []
    words += [f"--limit {options.limit}"] if options.limit else []
    words += [f"--max-new-tokens {options.max_new_tokens}"] * (options.max_new_tokens != 256)
    words += [f"-o docs/results/{options.output.name}", f"--heard {options.heard}"]
    return " ".join(words)


if __name__ == "__main__":
    sys.exit(main())
