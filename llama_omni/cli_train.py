"""`llama-omni train`: the two stages by a recipe, and what they begin with."""

import gc
import logging
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llama_omni.cli_errors import hush_transformers, note, one_line_errors
from llama_omni.cli_options import Debug, Threads
from llama_omni.errors import ConfigError

if TYPE_CHECKING:
    from llama_omni.recipes import TrainRecipe
    from llama_omni.train.stages import Start

train_app = typer.Typer(
    help="Train: both stages by a recipe (tiny, 1b, 8b), or a part of a model.",
    no_args_is_help=True,
)

Data = Annotated[
    Path, typer.Option(help="A data set that `llama-omni data build` made.", metavar="FOLDER")
]
Output = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        help="The run's folder: new, or of an interrupted run, which goes on.",
        metavar="FOLDER",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Change a field: stage1.learning_rate=1e-4. Repeatable.",
        metavar="KEY=VALUE",
        show_default=False,
    ),
]
TrainDevice = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.", metavar="NAME")]
STAGES = ("1", "2", "both")


def _recipe_command(name: str) -> Any:
    def command(
        data: Data,
        output: Output,
        model: Annotated[
            Path | None,
            typer.Option(help="A model folder to begin with.", metavar="FOLDER"),
        ] = None,
        llm: Annotated[
            str | None,
            typer.Option(
                help="A language model's folder or hub id; with --model, in place of its own.",
                metavar="NAME",
            ),
        ] = None,
        encoder: Annotated[
            Path | None,
            typer.Option(
                help="A Whisper's folder, or openai's .pt; with --model, in place of its own.",
                metavar="PATH",
            ),
        ] = None,
        vocoder: Annotated[
            Path | None,
            typer.Option(
                help="Speaks the samples of stage 2.",
                metavar="FOLDER",
                show_default="the model's own",
            ),
        ] = None,
        stage: Annotated[str, typer.Option(help="1, 2 or both.", metavar="STAGE")] = "both",
        settings: Settings = None,
        device: TrainDevice = "auto",
        threads: Threads = None,
        debug: Debug = False,
    ) -> None:
        with one_line_errors(debug):
            from llama_omni.recipes import find_recipe

            if stage not in STAGES:
                raise ConfigError(f"--stage must be {', '.join(STAGES)}, got {stage!r}")
            given = _Given(model=model, llm=llm, encoder=encoder, vocoder=vocoder)
            given = _checked(given, stage, output)
            recipe = configured(find_recipe(name), settings, device, "stage1", "stage2")
            prepare(threads)
            _stages(recipe, given, data, output, stage)

    command.__doc__ = f"Train both stages as recipe {name} says, or one of them."
    return command


for _name in ("tiny", "1b", "8b"):
    train_app.command(_name)(_recipe_command(_name))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Given:
    """Where what a stage begins with lies: a model, both of its parts, or a model and new parts."""

    model: Path | None
    llm: str | None = None
    encoder: Path | None = None
    vocoder: Path | None = None


def _checked(given: _Given, stage: str, output: Path) -> _Given:
    """Return what the first stage of a command begins with: stage 2 goes on with stage 1.

    Raises:
        ConfigError: too little was given, too much, or parts for a stage that needs a whole.
    """
    if stage == "2" and given.model is None and _is_done(output / "stage1"):
        return _Given(model=_product(output / "stage1"), vocoder=given.vocoder)
    missing = (given.llm, given.encoder).count(None)
    if stage == "2" and missing < 2:
        raise ConfigError(
            f"--stage 2 must begin with a model after stage 1, got --llm or --encoder; {output} "
            "holds no finished stage 1: run --stage 1 into it first, or give --model"
        )
    if given.model is None and missing:
        raise ConfigError("give --model, or both --llm and --encoder, or parts to renew in a model")
    return given


def _stages(recipe: "TrainRecipe", given: _Given, data: Path, output: Path, stage: str) -> None:
    """Run the stages; each loads its own model, so that none lies in memory during the other."""
    from llama_omni.train.readiness import check_ready
    from llama_omni.train.stages import held_out_splits, train_stage_one, train_stage_two

    splits = recipe.held_out or held_out_splits(data)
    if stage == "2":
        _say(f"stage 2 begins with {given.model}")
    runs: list[tuple[str, Any, Any]] = [
        ("1", train_stage_one, recipe.stage1),
        ("2", train_stage_two, recipe.stage2),
    ]
    runs = [one for one in runs if stage in (one[0], "both")]
    for number, _, settings in runs:
        check_ready(settings, splits, name=f"stage{number}")
    for number, run, settings in runs:
        place = output / f"stage{number}"
        start = _start(recipe, given, data, speaks=stage != "1")
        result = run(start, data, settings, place, held_out=splits)
        if not result.done:
            _say(f"stopped at step {result.step}; the same command goes on")
            return
        _say(f"stage {number} is done: {_product(place)}")
        given = _Given(model=_product(place), vocoder=given.vocoder)
        del start  # else its model lies in memory during the other stage
        gc.collect()  # a trained model can be part of a cycle


def _say(message: str) -> None:
    """Say something on rank 0."""
    from llama_omni.train.processes import is_main

    if is_main():
        note(message)


def _is_done(run: Path) -> bool:
    return (run / "done.json").is_file()


def _product(run: Path) -> Path:
    """Return a run's best model, or its last where nothing was held out."""
    return run / "best" if (run / "best").is_dir() else run / "final"


def _start(recipe: "TrainRecipe", given: _Given, data: Path, *, speaks: bool) -> "Start":
    """Return what a stage begins with, once model, vocoder and data set have the same units.

    Args:
        recipe: Of a fresh model's sizes; its number of units is that of the data set.
        given: Where all lies.
        data: The data set.
        speaks: The data set's units are learnt, in this stage or in the one after it.
    """
    from llama_omni.checkpoint.native import load_model, load_vocoder
    from llama_omni.model.presets import preset
    from llama_omni.model.tokenizer import load_tokenizer
    from llama_omni.train.assemble import assemble, renew
    from llama_omni.train.stages import Start
    from llama_omni.train.unit_counts import check_centres, check_units, num_units_of

    model, vocoder = given.model, given.vocoder
    if vocoder is None and model is not None and (model / "vocoder").is_dir():
        vocoder = model / "vocoder"
    voice = None if vocoder is None else load_vocoder(vocoder)
    voice_units, data_units = None if voice is None else voice.num_units, num_units_of(data)
    if model is not None:
        omni, tokenizer = load_model(model).float(), load_tokenizer(model)
        renew(omni, tokenizer, llm=given.llm, encoder=given.encoder)
    else:
        assert given.llm is not None
        assert given.encoder is not None
        config = preset(recipe.preset)
        if (num_units := data_units or voice_units) is not None:
            config.speech_decoder = replace(config.speech_decoder, num_units=num_units)
        omni, tokenizer = assemble(config, llm=given.llm, encoder=given.encoder, seed=recipe.seed)
    num_units = omni.config.speech_decoder.num_units
    check_units(num_units, voice_units, data_units if speaks or model is None else None)
    if speaks and model is not None:
        check_centres(model, data)
    return Start(
        model=omni.float(),
        tokenizer=tokenizer,
        vocoder=voice,
        base=model,
        vocoder_folder=vocoder,
        recipe=asdict(recipe),
    )


def configured(recipe: Any, settings: list[str] | None, device: str, *runs: str) -> Any:
    """Return a recipe as the user wants it; a device that is named holds for all its runs."""
    from llama_omni.overrides import override

    placed = [] if device == "auto" else [f"{run}.device={device}" for run in runs]
    return override(recipe, [*(settings or []), *placed])


def prepare(threads: int | None) -> None:
    """Set threads, and say on rank 0 what happens.

    Raises:
        ConfigError: there are no such threads.
    """
    import torch

    from llama_omni.train.processes import is_main

    hush_transformers()
    cores = os.cpu_count() or 1
    if threads is not None:
        if not 1 <= threads <= cores:
            raise ConfigError(
                f"threads must be 1 to {cores}, the cores of this machine, got {threads}"
            )
        torch.set_num_threads(threads)
    level = logging.INFO if is_main() else logging.ERROR
    logging.basicConfig(level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
