"""How many answer tokens and units a second the two stages learn, by the runs' own logs."""

import json
import logging
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from llama_omni.bench.machine import available_memory
from llama_omni.checkpoint.native import empty_model, random_model
from llama_omni.data.dataset import SpeechDataset
from llama_omni.errors import ConfigError
from llama_omni.model.config import OmniConfig
from llama_omni.model.device import find_device
from llama_omni.model.presets import preset
from llama_omni.model.tokenizer import random_tokenizer
from llama_omni.recipes import TrainRecipe
from llama_omni.train.collate import Collator
from llama_omni.train.product import Product
from llama_omni.train.runner import train
from llama_omni.train.stage import HeldOut
from llama_omni.train.stage_one import StageOne
from llama_omni.train.stage_settings import StageSettings
from llama_omni.train.stage_two import StageTwo

ROOM = 1.3  # activations and what the system takes, over the weights and the optimiser

logger = logging.getLogger("throughput")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainRun:
    """What is measured."""

    recipe: TrainRecipe
    data: Path
    steps: int  # timed, in each round
    warm_up: int  # before them
    rounds: int
    device: str
    threads: int | None
    work: Path


def measure_stages(run: TrainRun) -> dict[str, Any]:
    """Train both stages with random weights, in turn, and time their steps.

    The tokeniser that goes with random weights spells letter by letter, so tokens a second are
    those of longer answers than a real tokeniser's.

    Returns:
        Parameters, and for each stage a list of rounds: seconds, rows and targets of the timed
        steps; or why a stage was left out.
    """
    if run.threads is not None:
        torch.set_num_threads(run.threads)
    device = find_device(run.device)
    config = preset(run.recipe.preset)
    units = json.loads((run.data / "manifest.json").read_text("utf-8"))["units"]
    if units is None or units["K"] > config.speech_decoder.num_units:
        raise ConfigError(
            f"--data must have at most {config.speech_decoder.num_units} units for "
            f"{run.recipe.preset}, got {units and units['K']}"
        )
    found: dict[str, Any] = {"stage1": [], "stage2": []}
    for stage in found:
        needed, free = _bytes_needed(config, run.recipe, stage), available_memory(device)
        if needed > free:
            found[stage] = (
                f"needs about {needed / 2**30:.0f} GiB on {device.type}, {free / 2**30:.0f} free"
            )
    for number in range(run.rounds):
        for stage, rounds in found.items():
            if isinstance(rounds, list):
                logger.info("training round=%d stage=%s", number + 1, stage)
                rounds.append(_one(run, stage, config))
    return {
        "recipe": asdict(run.recipe),
        "parameters": _parameters(config),
        "threads": torch.get_num_threads(),
        "steps": run.steps,
        "warm_up": run.warm_up,
        "stages": found,
    }


class _Enough(Exception):
    """Ends a run before it writes anything: of a large model that would be many gigabytes."""


class _Counting:
    """Notes how many targets each batch of a stage has, and ends after so many batches."""

    last = 0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.counted: list[tuple[int, int]] = []  # rows and targets

    def count(self, batch: dict[str, Any]) -> int:
        if len(self.counted) == self.last:
            raise _Enough
        targets = super().count(batch)  # pyright: ignore[reportAttributeAccessIssue]
        self.counted.append((len(batch["ids"]), targets))
        return targets


class _CountingOne(_Counting, StageOne):
    pass


class _CountingTwo(_Counting, StageTwo):
    pass


def _one(run: TrainRun, stage: str, config: OmniConfig) -> dict[str, Any]:
    """Train one stage for some steps; what its last ones took."""
    output = run.work / stage
    shutil.rmtree(output, ignore_errors=True)
    settings: Any = replace(
        run.recipe.stage1 if stage == "stage1" else run.recipe.stage2,
        max_steps=run.warm_up + run.steps + 1,  # the last one is never done
        log_every=1,
        eval_every=0,
        save_every=run.warm_up + run.steps + 1,
        metric="loss",
        tensorboard=False,
        device=run.device,
    )
    model = random_model(config, seed=run.recipe.seed)
    tokenizer = random_tokenizer(config)
    two = stage == "stage2"
    columns = ("question_audio", "units") if two else ("question_audio",)
    rows = SpeechDataset(run.data, "train", columns=columns)
    collator = Collator(
        config=model.config, tokenizer=tokenizer, history=settings.history, units=two
    )
    kind = _CountingTwo if two else _CountingOne
    task = kind(model, collator, settings, held_out=HeldOut(), product=Product(tokenizer=tokenizer))
    task.last = (run.warm_up + run.steps) * settings.accumulation
    with suppress(_Enough):
        train(task, rows, rows.lengths["num_units" if two else "question_s"], settings, output)
    return _timed(output / "metrics.jsonl", task.counted, settings, run.warm_up)


def _timed(
    path: Path, counted: list[tuple[int, int]], settings: StageSettings, warm_up: int
) -> dict[str, Any]:
    """Return seconds, rows and targets of the steps behind the warm-up, by the run's log."""
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    seconds = [0.0] + [line["seconds"] for line in lines if "loss" in line]
    batches = counted[warm_up * settings.accumulation :]
    return {
        "seconds": seconds[-1] - seconds[warm_up],
        "rows": sum(rows for rows, _ in batches),
        "targets": sum(targets for _, targets in batches),
    }


def _parameters(config: OmniConfig) -> dict[str, int]:
    model = empty_model(config)
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in _parts(model)}
    return counts | {"all": sum(counts.values())}


def _parts(model: Any) -> list[tuple[str, Any]]:
    return [
        (name, getattr(model, name)) for name in ("encoder", "adapter", "llm", "speech_decoder")
    ]


def _bytes_needed(config: OmniConfig, recipe: TrainRecipe, stage: str) -> float:
    """Return what a stage takes: weights; gradients and Adam's two averages of what learns."""
    counts = _parameters(config)
    learns = counts["speech_decoder"]
    if stage == "stage1":
        learns = counts["adapter"] + (counts["llm"] if recipe.stage1.llm == "whole" else 0)
    return ROOM * 4 * (counts["all"] + 3 * learns)
