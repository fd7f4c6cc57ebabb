"""`llama-omni train tokenizer | lm | encoder | vocoder`: the parts that both stages begin with."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llama_omni.cli_errors import note, one_line_errors
from llama_omni.cli_options import Debug, Threads
from llama_omni.cli_train import Data, Output, Settings, TrainDevice, configured, prepare, train_app
from llama_omni.errors import InputError

if TYPE_CHECKING:
    from llama_omni.data.records import Record
    from llama_omni.data.sources import Source
    from llama_omni.part_recipes import TextRecipe

Tokenizer = Annotated[
    Path, typer.Option(help="The language model's tokeniser, or its folder.", metavar="FOLDER")
]
Table = Annotated[
    Path | None,
    typer.Option(
        "--source",
        help="What to learn from: .json, .jsonl, .csv, .tsv or .parquet with the columns question "
        "and answer (others: --set texts.columns.question=NAME), or a folder of these.",
        metavar="PATH",
        show_default="the tiny model's world",
    ),
]
Begin = Annotated[
    Path | None,
    typer.Option(  # not --start: torchrun takes that for the beginning of an option of its own
        "--begin-with",
        help="What an earlier run made: its final or best.",
        metavar="FOLDER",
        show_default="nothing",
    ),
]


@train_app.command()
def tokenizer(
    output: Output, source: Table = None, settings: Settings = None, debug: Debug = False
) -> None:
    """Learn a tokeniser from texts; takes seconds."""
    with one_line_errors(debug):
        from llama_omni.part_recipes import tiny_tokenizer
        from llama_omni.train.tokenizer import train_tokenizer

        recipe = configured(tiny_tokenizer(), settings, "auto")
        train_tokenizer(
            _texts(_records(recipe.texts, source)),
            output,
            num_tokens=recipe.num_tokens,
            vocab_size=recipe.vocab_size,
        )
        note(f"the tokeniser is done: {output}")


@train_app.command()
def lm(
    tokenizer: Tokenizer,
    output: Output,
    source: Table = None,
    start: Begin = None,
    settings: Settings = None,
    device: TrainDevice = "auto",
    threads: Threads = None,
    debug: Debug = False,
) -> None:
    """Train a language model on written questions and answers, from nothing or further."""
    with one_line_errors(debug):
        from llama_omni.model.presets import preset
        from llama_omni.model.tokenizer import load_tokenizer
        from llama_omni.part_recipes import tiny_lm
        from llama_omni.prompt import prompt_template
        from llama_omni.train.llm_tokens import check_fit, for_tokenizer
        from llama_omni.train.lm import TextRows, train_lm

        recipe = configured(tiny_lm(), settings, device, "training")
        prepare(threads)
        config, encoder = preset(recipe.preset), load_tokenizer(tokenizer)
        template = prompt_template(config.prompt)
        config.llm = for_tokenizer(config.llm, encoder)
        check_fit(config.llm, encoder, template, folder=tokenizer)
        held_out: dict[str, list[Any]] = {}
        if source is None:
            for kept in recipe.held_out:
                held_out[kept.split] = list(_read(kept, seed=0))
        rows = TextRows.of_records(_records(recipe.texts, source), encoder, template)
        result = train_lm(
            rows,
            output,
            config=config.llm,
            tokenizer=encoder,
            template=template,
            settings=recipe.lm,
            training=recipe.training,
            held_out=held_out,
            start=start,
        )
        _tell(result, output)


@train_app.command()
def encoder(
    data: Data,
    tokenizer: Tokenizer,
    output: Output,
    start: Begin = None,
    settings: Settings = None,
    device: TrainDevice = "auto",
    threads: Threads = None,
    debug: Debug = False,
) -> None:
    """Train a speech encoder on a data set's questions, from nothing or from an earlier one."""
    with one_line_errors(debug):
        from llama_omni.data.shards import read_shards
        from llama_omni.model.presets import preset
        from llama_omni.part_recipes import splits_in, tiny_encoder
        from llama_omni.train.encoder import train_encoder

        recipe = configured(tiny_encoder(), settings, device, "training")
        recipe = splits_in(recipe, [*dict.fromkeys(shard.split for shard in read_shards(data))])
        prepare(threads)
        result = train_encoder(
            data,
            tokenizer,
            output,
            config=preset(recipe.preset).encoder,
            settings=recipe.encoder,
            training=recipe.training,
            splits=recipe.splits,
            held_out=recipe.held_out,
            start=start,
        )
        _tell(result, output)


@train_app.command()
def vocoder(
    data: Data,
    output: Output,
    start: Begin = None,
    generator: Annotated[
        str | None,
        typer.Option(
            help="convnext-istft (minutes on a CPU core) or hifigan (many hours on a GPU).",
            metavar="NAME",
            show_default="the preset's",
        ),
    ] = None,
    settings: Settings = None,
    device: TrainDevice = "auto",
    threads: Threads = None,
    debug: Debug = False,
) -> None:
    """Train a unit vocoder on a data set's spoken answers and their units."""
    with one_line_errors(debug):
        from dataclasses import replace

        from llama_omni.data.shards import read_manifest
        from llama_omni.model.vocoder_config import VocoderConfig, vocoder_preset
        from llama_omni.part_recipes import tiny_vocoder
        from llama_omni.train.vocoder import train_vocoder
        from llama_omni.train.vocoder_settings import hifigan_settings

        recipe = tiny_vocoder()
        if generator == "hifigan":
            recipe = replace(recipe, preset="1b", training=hifigan_settings())
        recipe = configured(recipe, settings, device, "training")
        prepare(threads)
        config = vocoder_preset(recipe.preset)
        units = read_manifest(data)["units"]
        if units is None:
            raise InputError(
                f"{data} must hold units, got one built without; units.enabled must be true, and "
                "voices.answer a voice, where it is built"
            )
        values = config.to_diff_dict() | {"num_units": units["K"]}
        if generator is not None:
            values["generator"] = generator
        result = train_vocoder(
            data, recipe.training, output, config=VocoderConfig(**values), start=start
        )
        _tell(result, output)


def _records(texts: "TextRecipe", source: Path | None) -> "Iterator[Record]":
    from llama_omni.data.sources import Source

    sources = texts.sources
    if source is not None:
        found = {"path": str(source), "hub_split": None}
        sources = (Source(kind="table", columns=texts.columns, **found),)
    for one in sources:
        yield from _read(one, seed=texts.seed)


def _read(source: "Source", *, seed: int) -> "Iterator[Record]":
    from llama_omni.data.sources import read_sources

    for item in read_sources((source,), seed=seed):
        yield item.record


def _texts(records: "Iterator[Record]") -> Iterator[str]:
    """Yield what a model reads and writes, and questions as they are heard."""
    from llama_omni.metrics import spoken_words

    for record in records:
        yield record.question
        yield " ".join(spoken_words(record.question))
        if record.answer is not None:
            yield record.answer


def _tell(result: Any, output: Path) -> None:
    from llama_omni.train.processes import is_main

    if is_main():
        done = f"done: {output}" if result.done else "stopped; the same command goes on"
        note(f"step {result.step}, {done}")
