"""Load a server with real-time clients: `python -m benchmarks.serve_load -o benchmarks/results`.

    python -m benchmarks.serve_load                                   # the embedded model
    python -m benchmarks.serve_load --direct --preset 8b --clients 64 # the engine alone, on a GPU

With -o, every N is kept as it ends: the same command goes on where a stopped one was.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from llama_omni.bench.serve import DirectSettings, LoadSettings, measure_load
from llama_omni.bench.serve.settings import MODES
from llama_omni.errors import LlamaOmniError

REFUSED, INTERRUPTED = 2, 130  # exit codes


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, show the tables, and return the exit code: 0, 2 where something was refused."""
    given = [*(sys.argv[1:] if arguments is None else arguments)]
    options = _parser().parse_args(given)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    logging.getLogger("llama_omni.bench").setLevel(logging.INFO)
    default = LoadSettings()
    try:
        settings = LoadSettings(
            clients=options.clients or default.clients,
            speculation=MODES[options.speculation],
            seconds=options.seconds,
            turns=options.turns,
            stagger_s=options.stagger,
            max_late=options.max_late,
            max_first_audio_s=options.max_first_audio,
        )
        direct = None
        if options.direct:
            direct = DirectSettings(
                tokens=options.tokens, question_s=options.question_s, listen_s=options.listen
            )
        measure_load(
            settings,
            direct=direct,
            preset=options.preset,
            model=options.model,
            device=options.device,
            dtype=options.dtype,
            threads=options.threads,
            question=options.question,
            output=options.output,
            command=_command(given, options),
        )
    except LlamaOmniError as error:
        print(f"serve_load: error: {' '.join(str(error).split())}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        print("serve_load: stopped; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    return 0


def _parser() -> argparse.ArgumentParser:
    load, direct = LoadSettings(), DirectSettings()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serve_load",
        description="Load a server, or an engine, with real-time clients until it is full.",
    )
    add = parser.add_argument
    add("--clients", type=_numbers, metavar="N,N,...", help="how many at once, growing")
    add("--speculation", choices=[*MODES], default="both", help="replies prepared at pauses")
    add("--seconds", type=float, default=load.seconds, help="in which turns begin, for each N")
    add("--turns", type=int, metavar="N", help="of each client, in place of --seconds")
    add("--stagger", type=float, default=load.stagger_s, help="seconds between first and last one")
    add("--max-late", type=float, default=load.max_late, help="share of late pieces that is full")
    add("--max-first-audio", type=float, default=load.max_first_audio_s, help="p95 that is full")
    add("--model", metavar="MODEL", help="a folder or hub id; the default is the embedded model")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    add("--dtype", default="auto", help="auto, float32, bfloat16, float16")
    add("--threads", type=int, metavar="N", help="CPU threads of the engine")
    add(
        "--question", type=Path, metavar="FILE", help="a recorded question, in place of spoken ones"
    )
    add("-o", "--out", "--output", dest="output", type=Path, metavar="FOLDER", help="for results")
    add("--direct", action="store_true", help="drive the engine without a server")
    add("--preset", help="with --direct: a size with random weights: tiny, 1b, 8b")
    add("--tokens", type=int, default=direct.tokens, help="with --preset: of each reply")
    add("--question-s", type=float, default=direct.question_s, help="with --preset: seconds asked")
    add("--listen", type=float, metavar="SECONDS", help="with --direct: then ask again, in between")
    return parser


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


def _command(given: Sequence[str], options: argparse.Namespace) -> str:
    """Return the command that repeats a run, without the places of this machine."""
    words = list(given)
    for place, kind in ((options.output, "FOLDER"), (options.question, "FILE")):
        words = [kind if place is not None and word == str(place) else word for word in words]
    if options.model is not None and Path(options.model).exists():
        words = ["MODEL" if word == options.model else word for word in words]
    return " ".join(["python -m benchmarks.serve_load", *words])


if __name__ == "__main__":
    sys.exit(main())
