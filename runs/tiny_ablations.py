"""Train the tiny model's stage 2 in several ways for equal time, and compare what is heard.

python runs/tiny_ablations.py --model STAGE1 --vocoder VOCODER --data DATA -o docs/results/ablations

Every way has one process and one thread for as long as the others; as many run side by side as
`--jobs` says. A way that is done is not trained again.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from llama_omni import load
from llama_omni.bench.machine import describe, versions_line
from llama_omni.bench.tiny import TinySettings, measure_tiny, vocode_with
from llama_omni.bench.tiny.hearing import DOMAIN, GENERIC
from llama_omni.checkpoint.native import load_model, load_vocoder, random_model
from llama_omni.errors import LlamaOmniError
from llama_omni.model.omni import OmniModel
from llama_omni.model.tokenizer import load_tokenizer
from llama_omni.overrides import override
from llama_omni.recipes import tiny
from llama_omni.train.stages import Start, train_stage_two

TIMED_STEPS = 12  # from which the steps that fit into the time are reckoned


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """What differs from the recipe."""

    title: str
    decoder: tuple[str, ...] = ()  # fields of the speech decoder's configuration
    stage: tuple[str, ...] = ()  # fields of stage 2


WAYS = {
    "recipe": Way(title="the recipe"),
    "no-frame-index": Way(title="no frame-index embedding", decoder=("frame_embedding=false",)),
    "no-token": Way(title="no chosen-token embedding", decoder=("token_embedding=false",)),
    "neither": Way(
        title="neither: the paper's decoder",
        decoder=("frame_embedding=false", "token_embedding=false"),
    ),
    "lambda-10": Way(title="lambda = 10", decoder=("upsample_factor=10",)),
    "lambda-25": Way(title="lambda = 25", decoder=("upsample_factor=25",)),
    "labelled": Way(title="the release's states", stage=("ctc_states=labelled",)),
}


def main() -> int:
    """Train and measure what is not there yet, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--model", type=Path, required=True, help="after stage 1")
    add("--vocoder", type=Path, required=True)
    add("--data", type=Path, required=True)
    add("-o", "--output", type=Path, required=True, help="without suffix: .md and .json")
    add("--work", type=Path, default=Path("runs/out/ablations"), help="what is kept between runs")
    add("--minutes", type=float, default=20.0, help="of training, each way")
    add("--limit", type=int, default=100, help="questions of each split that are asked")
    add("--jobs", type=int, default=4, help="ways side by side")
    add("--batch-size", type=int, default=16, help="rows of a step")
    add("--ways", default=",".join(WAYS), help="some of them")
    add("--one", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    try:
        if options.one:
            _run(options, options.one)
            return 0
        names = options.ways.split(",")
        if unknown := [name for name in names if name not in WAYS]:
            parser.error(f"--ways must be some of {', '.join(WAYS)}, got {unknown[0]!r}")
        with ThreadPoolExecutor(options.jobs) as pool:
            codes = list(pool.map(_start, names))
        if any(codes):
            return max(codes)
        _write(options, names)
    except LlamaOmniError as error:
        print(f"tiny_ablations: error: {error}", file=sys.stderr)
        return 2
    return 0


def _start(name: str) -> int:
    """Train and measure one way in a process of its own."""
    words = [sys.executable, *sys.argv, "--one", name]
    return subprocess.call(words, env=os.environ | {"OMP_NUM_THREADS": "1"})


def _run(options: argparse.Namespace, name: str) -> None:
    torch.set_num_threads(1)
    way, place = WAYS[name], options.work / name
    if (place / "result.json").is_file():
        return
    settings = replace(
        tiny().stage2, metric="loss", tensorboard=False, samples=0,
        eval_every=0, save_every=10**6, workers=0, batch_size=options.batch_size,
    )  # fmt: skip
    settings = override(settings, way.stage)
    began = time.perf_counter()
    timed = place / f"timed-{os.getpid()}"
    trial = replace(settings, max_steps=TIMED_STEPS)
    train_stage_two(_begin(options, way), options.data, trial, timed)
    rows = [json.loads(line) for line in (timed / "metrics.jsonl").read_text().splitlines()]
    seconds = max(row["seconds"] for row in rows if "seconds" in row) / max(
        row["step"] for row in rows if "seconds" in row
    )
    steps = max(TIMED_STEPS, round(options.minutes * 60 / seconds))
    run = place / f"run-{options.minutes:g}"
    for known in run.glob("settings.json"):  # goes on with the steps it began with
        steps = json.loads(known.read_text())["steps"]
    result = train_stage_two(
        _begin(options, way),
        options.data,
        replace(settings, max_steps=steps, save_every=100),
        run,
        held_out=("test_seen", "test_unseen"),
    )
    assistant = load(run / "final", threads=1)
    measured = measure_tiny(
        TinySettings(
            data=options.data, output=place / "page", work=place / "asked", model_name=way.title,
            limit=options.limit, heard=options.limit, samples=0,
        ),
        assistant,
        vocode=vocode_with(assistant),
    )  # fmt: skip
    scores = measured["scores"]
    row = {
        "name": name, "title": way.title, "steps": steps, "minutes": steps * seconds / 60,
        "wall_minutes": (time.perf_counter() - began) / 60, "metrics": dict(result.metrics),
        "unit_error_rate": scores["unit_error_rate"], "recognition": scores["recognition"],
        "timings": scores["timings"],
    }  # fmt: skip
    (place / "result.json").write_text(json.dumps(row, indent=1) + "\n")


def _begin(options: argparse.Namespace, way: Way) -> Start:
    """Return the model after stage 1 with a fresh speech decoder of this way's shape."""
    trained = load_model(options.model)
    config = trained.config
    config.speech_decoder = override(config.speech_decoder, way.decoder)
    model: OmniModel = random_model(config, seed=tiny().seed)
    weights = {
        key: value
        for key, value in trained.state_dict().items()
        if not key.startswith("speech_decoder.")
    }
    missing, unknown = model.load_state_dict(weights, strict=False)
    assert not unknown
    assert all(key.startswith("speech_decoder.") for key in missing)
    return Start(
        model=model.float(), tokenizer=load_tokenizer(options.model),
        vocoder=load_vocoder(options.vocoder), base=options.model,
        vocoder_folder=options.vocoder,
    )  # fmt: skip


def _write(options: argparse.Namespace, names: list[str]) -> None:
    rows = [json.loads((options.work / name / "result.json").read_text()) for name in names]
    machine = describe(torch.device("cpu"), torch.float32)
    text = ["# Stage 2 of the tiny model, in other ways", ""]
    text += [
        f"Each way trained for {options.minutes:g} minutes on one thread, {options.jobs} side by "
        f"side, {options.batch_size} answers a step, from the same stage 1 and with the same "
        "vocoder. Unit errors over the true text, in both test splits; then spoken questions "
        "answered, and the answers heard by "
        f"PocketSphinx ({options.limit} questions of each split; its language model is of the "
        "training's answers, or its own).",
        "",
        "| | steps | unit errors, true text | unit errors, replies | heard as written, domain | "
        "word errors, domain | word errors, generic |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        heard = row["recognition"]
        cells: list[Any] = [row["metrics"].get("unit_error"), _value(row["unit_error_rate"])]
        cells += [_value(heard[DOMAIN]["same"]), _value(heard[DOMAIN]["own"])]
        cells += [_value(heard[GENERIC]["own"])]
        shown = " | ".join("-" if cell is None else f"{cell:.3f}" for cell in cells)
        text.append(f"| {row['title']} | {row['steps']:,} | {shown} |")
    text += ["", f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}; "]
    text[-1] += f"{versions_line(machine)}; {machine['date']}."
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.with_suffix(".md").write_text("\n".join(text) + "\n", encoding="utf-8")
    options.output.with_suffix(".json").write_text(
        json.dumps({"machine": machine, "ways": rows}, indent=1) + "\n", encoding="utf-8"
    )
    print("\n".join(text))


def _value(estimate: dict[str, Any] | None) -> float | None:
    return None if estimate is None else estimate["value"]


if __name__ == "__main__":
    sys.exit(main())
