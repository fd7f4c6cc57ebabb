"""`llama-omni train`: the two stages by a recipe, and what they begin with."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llama_omni.cli_errors import note, one_line_errors
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
                help="Instead of --model: a language model's folder or hub id.", metavar="NAME"
            ),
        ] = None,
        encoder: Annotated[
            Path | None,
            typer.Option(help="With --llm: a Whisper's folder, or openai's .pt.", metavar="PATH"),
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
            from llama_omni.overrides import override
            from llama_omni.recipes import find_recipe

            if stage not in STAGES:
                raise ConfigError(f"--stage must be {', '.join(STAGES)}, got {stage!r}")
            if (model is None) == (llm is None) or (llm is None) != (encoder is None):
                raise ConfigError("give either --model, or both --llm and --encoder")
            recipe = override(find_recipe(name), settings or [])
            recipe = override(recipe, [f"stage1.device={device}", f"stage2.device={device}"])
            prepare(threads)
            begin = _start(recipe, model, llm, encoder, vocoder)
            _stages(recipe, begin, data, output, stage)

    command.__doc__ = f"Train both stages as recipe {name} says, or one of them."
    return command


for _name in ("tiny", "1b", "8b"):
    train_app.command(_name)(_recipe_command(_name))


def _stages(recipe: "TrainRecipe", begin: "Start", data: Path, output: Path, stage: str) -> None:
    from llama_omni.checkpoint.native import load_model
    from llama_omni.train.processes import is_main
    from llama_omni.train.stages import held_out_splits, train_stage_one, train_stage_two

    splits = recipe.held_out or held_out_splits(data)
    if stage in ("1", "both"):
        place = output / "stage1"
        result = train_stage_one(begin, data, recipe.stage1, place, held_out=splits)
        if not result.done:
            note(f"stopped at step {result.step}; the same command goes on")
            return
        if is_main():
            note(f"stage 1 is done: {_product(place)}")
        if stage == "both":
            begin = begin.of(load_model(_product(place)))
    if stage in ("2", "both"):
        place = output / "stage2"
        result = train_stage_two(begin, data, recipe.stage2, place, held_out=splits)
        if is_main():
            what = f"stage 2 is done: {_product(place)}" if result.done else (
                f"stopped at step {result.step}; the same command goes on"
            )  # fmt: skip
            note(what)


def _product(run: Path) -> Path:
    """Return a run's best model, or its last where nothing was held out."""
    return run / "best" if (run / "best").is_dir() else run / "final"


def _start(
    recipe: "TrainRecipe",
    model: Path | None,
    llm: str | None,
    encoder: Path | None,
    vocoder: Path | None,
) -> "Start":
    from llama_omni.checkpoint.native import load_model, load_vocoder
    from llama_omni.model.presets import preset
    from llama_omni.model.tokenizer import load_tokenizer
    from llama_omni.train.assemble import assemble
    from llama_omni.train.stages import Start

    if vocoder is None and model is not None and (model / "vocoder").is_dir():
        vocoder = model / "vocoder"
    if llm is not None and encoder is not None:
        omni, tokenizer = assemble(
            preset(recipe.preset), llm=llm, encoder=encoder, seed=recipe.seed
        )
    else:
        assert model is not None
        omni, tokenizer = load_model(model), load_tokenizer(model)
    return Start(
        model=omni.float(),
        tokenizer=tokenizer,
        vocoder=None if vocoder is None else load_vocoder(vocoder),
        base=model,
        vocoder_folder=vocoder,
        recipe=asdict(recipe),
    )


def prepare(threads: int | None) -> None:
    """Set threads, and say on rank 0 what happens."""
    import torch

    from llama_omni.train.processes import is_main

    if threads is not None:
        torch.set_num_threads(threads)
    level = logging.INFO if is_main() else logging.ERROR
    logging.basicConfig(level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
