"""Options that commands share: each is declared, and explained to the user, once."""

from enum import StrEnum
from typing import Annotated

import typer

from llama_omni.errors import ConfigError


class Dtype(StrEnum):
    """Number formats of weights and arithmetic."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


PRESETS = ("tiny", "1b", "8b")  # named here too, as asking the model for them imports torch


def complete_preset(incomplete: str) -> list[str]:
    """Complete the name of a preset in the shell."""
    return [name for name in PRESETS if name.startswith(incomplete)]


def check_preset(name: str | None) -> None:
    """Refuse a preset that there is not, before torch is loaded.

    Raises:
        ConfigError: there is none of that name.
    """
    if name is not None and name not in PRESETS:
        raise ConfigError(f"--preset must be one of {', '.join(PRESETS)}, got {name!r}")


ModelName = Annotated[
    str | None,
    typer.Option(help="A folder or hub id; the embedded tiny model if absent.", metavar="NAME"),
]
PresetName = Annotated[
    str | None,
    typer.Option(
        help=f"A size by its name: {', '.join(PRESETS)}.",
        metavar="NAME",
        autocompletion=complete_preset,
    ),
]
RandomWeights = Annotated[
    bool, typer.Option("--random-weights", help="Try a --preset without its weights.")
]
Device = Annotated[
    str, typer.Option(help="auto, cpu, cuda or cuda:1; mps on a Mac.", metavar="NAME")
]
DtypeName = Annotated[Dtype, typer.Option(help="Number format; auto suits the device.")]
StoredDtype = Annotated[Dtype, typer.Option(help="Number format; auto keeps that of the files.")]
ChunkSize = Annotated[
    str,
    typer.Option(
        help="Units spoken at a time (each lasts 20 ms or more); inf speaks the reply all at once.",
        metavar="UNITS|inf",
    ),
]
Lookahead = Annotated[
    int | None,
    typer.Option(
        help="Units held back so that chunks join smoothly.",
        metavar="UNITS",
        show_default="as measured",
    ),
]
MaxNewTokens = Annotated[int, typer.Option(help="Longest reply, in text tokens.", metavar="TOKENS")]
Temperature = Annotated[
    float, typer.Option(help="0 always takes the likeliest token.", metavar="NUMBER")
]
TopP = Annotated[
    float,
    typer.Option(help="Draw from the likeliest tokens that make up this share.", metavar="NUMBER"),
]
Seed = Annotated[int, typer.Option(help="Of sampling and of random weights.", metavar="NUMBER")]
System = Annotated[
    str | None,
    typer.Option(help="A system prompt.", metavar="TEXT", show_default="the model's own"),
]
Threads = Annotated[
    int | None,
    typer.Option(
        help="CPU threads.", metavar="NUMBER", show_default="1 for a small model, else torch's"
    ),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show where in the code an error came from.")]


def parse_chunk_size(text: str) -> int | None:
    """Read a `ChunkSize`: a number of units, or None for inf."""
    if text == "inf":
        return None
    try:
        return int(text)
    except ValueError as error:
        raise ConfigError(
            f"--chunk-size must be a whole number of units or inf, got {text!r}"
        ) from error
