"""`llama-omni data units`: fit units on sound, and name the units of sounds."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from llama_omni.cli_errors import REFUSED, note, one_line_errors, say_error
from llama_omni.cli_options import Debug
from llama_omni.errors import ConfigError, OutputError

units_app = typer.Typer(
    help="Units: fit k-means on features of sound, and name the units of sounds.",
    no_args_is_help=True,
)

Inputs = Annotated[
    list[Path],
    typer.Argument(
        help="Sound files and folders of them (WAV, FLAC, OGG, MP3), or one data set's folder.",
        metavar="INPUTS",
    ),
]
Column = Annotated[str, typer.Option(help="Of a data set: answer or question.", metavar="NAME")]
UnitDevice = Annotated[str, typer.Option(help="cpu, cuda or cuda:1.", metavar="NAME")]


@units_app.command()
def fit(
    inputs: Inputs,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder to make.", metavar="FOLDER")
    ],
    features: Annotated[
        str,
        typer.Option(
            help="mfcc, hubert:FOLDER#LAYER (or a hub id), or encoder:FOLDER.", metavar="NAME"
        ),
    ] = "mfcc",
    normalise: Annotated[
        bool,
        typer.Option(
            "--normalise", help="HuBERT: normalise each waveform; the large models want it."
        ),
    ] = False,
    num_units: Annotated[int, typer.Option(help="How many units, K.", metavar="NUMBER")] = 200,
    sample_minutes: Annotated[
        float,
        typer.Option(help="Minutes of sound to look at, drawn by the seed.", metavar="NUMBER"),
    ] = 60.0,
    column: Column = "answer",
    split: Annotated[
        str | None,
        typer.Option(help="Of a data set.", metavar="NAME", show_default="train"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the draw and of k-means.", metavar="NUMBER")] = 0,
    device: UnitDevice = "cpu",
    debug: Debug = False,
) -> None:
    """Fit units on some of the sound; the folder gets kmeans.npy and features.json.

    The same sound, seed and number of threads give the same units.
    """
    with one_line_errors(debug):
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise OutputError(f"{output} must be a new or empty folder, got one with files in it")
        from llama_omni.data.shards import MANIFEST
        from llama_omni.data.sounds import open_sounds
        from llama_omni.data.units import fit_units
        from llama_omni.model.device import find_device

        place = str(find_device(device, field="--device"))
        chosen = _features(features, normalise, place)
        if split is None and len(inputs) == 1 and (inputs[0] / MANIFEST).is_file():
            split = "train"
        sounds = open_sounds(inputs, column=column, split=split)
        with _bar("listening", "s") as show:
            extractor, report = fit_units(
                sounds,
                chosen,
                num_units=num_units,
                sample_s=60 * sample_minutes,
                seed=seed,
                device=place,
                progress=show,
            )
        extractor.save(output, report)
        typer.echo(
            f"{report.num_units} units of {report.sound_s / 60:.1f} minutes of sound "
            f"({report.num_sounds} sounds, {report.num_frames} frames) in {report.seconds:.1f} s"
        )
        typer.echo(
            f"{report.used_units} in use, as even as {report.perplexity:.0f}; "
            f"{report.merged_per_s:.1f} merged units a second; inertia {report.inertia:.3f}"
        )
        typer.echo(f"units in {output}")


@units_app.command()
def extract(
    inputs: Inputs,
    units: Annotated[
        Path, typer.Option("--units", "-u", help="A folder that fit made.", metavar="FOLDER")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The lines of JSON to write.", metavar="FILE")
    ],
    source: Annotated[
        str | None,
        typer.Option(help="Where the model of the features is now, if it moved.", metavar="FOLDER"),
    ] = None,
    column: Column = "answer",
    split: Annotated[
        str | None, typer.Option(help="Of a data set.", metavar="NAME", show_default="all")
    ] = None,
    processes: Annotated[
        int, typer.Option(help="How many work side by side, a thread each.", min=1)
    ] = 1,
    device: UnitDevice = "cpu",
    debug: Debug = False,
) -> None:
    """Name the units of each sound: a line of JSON with id, units and durations.

    Run it again after an interruption: sounds that are in the file are skipped.
    """
    with one_line_errors(debug):
        if output.suffix != ".jsonl":
            raise OutputError(f"{output} must end with .jsonl, got suffix {output.suffix!r}")
        from llama_omni.data.sounds import open_sounds
        from llama_omni.data.unit_lines import extract_units
        from llama_omni.model.device import find_device

        place = str(find_device(device, field="--device") if device == "auto" else device)
        if processes > 1 and place != "cpu":
            raise ConfigError(f"--processes must be 1 on {place}, got {processes}")
        find_device(place, field="--device")
        sounds = open_sounds(inputs, column=column, split=split)
        with _bar("naming", "sounds") as show:
            report = extract_units(
                sounds,
                units,
                output,
                processes=processes,
                source=source,
                device=place,
                progress=show,
            )
        for name, reason in report.rejects:
            say_error(reason if name in reason else f"{name}: {reason}")
        if report.skipped:
            note(f"{report.skipped} sounds were in {output} already")
        speed = report.sound_s / report.seconds if report.seconds else 0.0
        rate = report.units / report.sound_s if report.frames else 0.0
        typer.echo(
            f"{report.done} sounds, {report.sound_s / 60:.1f} minutes, at {speed:.0f} x real time; "
            f"{rate:.1f} merged units a second"
        )
        typer.echo(f"units in {output}")
        if report.rejects:
            raise typer.Exit(REFUSED)


def _features(name: str, normalise: bool, device: str) -> Any:
    """Open features by the name that a user gives them."""
    kind, _, source = name.partition(":")
    if normalise and kind != "hubert":
        raise ConfigError(f"--normalise must be for hubert, got {kind}")
    if kind == "mfcc" and not source:
        from llama_omni.model.features import features_from

        return features_from({"kind": "mfcc"}, device=device)
    if kind == "hubert" and source:
        from llama_omni.model.features_hubert import HubertFeatures

        folder, mark, layer = source.rpartition("#")
        if not mark or not layer.isdecimal():
            raise ConfigError(
                f"--features must name a layer, as hubert:{source.partition('#')[0]}#11, got {name}"
            )
        return HubertFeatures.from_pretrained(
            folder, layer=int(layer), normalise=normalise, device=device
        )
    if kind == "encoder" and source:
        from llama_omni.model.features_encoder import EncoderFeatures

        return EncoderFeatures.from_pretrained(source, device=device)
    raise ConfigError(
        f"--features must be mfcc, hubert:FOLDER#LAYER or encoder:FOLDER, got {name!r}"
    )


@contextmanager
def _bar(what: str, unit: str) -> Iterator[Callable[[float, float], None] | None]:
    """Show how much is done and when it will be, where somebody is looking."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    amount = TextColumn("{task.completed:.0f}/{task.total:.0f} " + unit)
    columns = TextColumn(what), BarColumn(), amount, TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=1)
        yield lambda done, total: bar.update(task, completed=done, total=total)
