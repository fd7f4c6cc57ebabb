"""`llama-omni data`: build a data set, look at one, and make units."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llama_omni.cli_errors import note, one_line_errors
from llama_omni.cli_options import Debug
from llama_omni.cli_units import units_app

if TYPE_CHECKING:
    from llama_omni.data.build import BuildSummary, StageProgress

data_app = typer.Typer(help="Data sets: from written instructions to Parquet shards of speech.")
data_app.add_typer(units_app, name="units")

_EVERY_S = 10.0  # between lines where nobody watches a bar


@data_app.command()
def build(
    recipe: Annotated[
        str,
        typer.Argument(
            help="instructs2s_200k (the paper's set), tiny, custom (any table of questions and "
            "answers), or released (layouts of others).",
            metavar="RECIPE",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="The data set's folder: new, or of an interrupted build, which goes on.",
            metavar="FOLDER",
        ),
    ],
    source: Annotated[
        list[str] | None,
        typer.Option(
            help="Where instructions come from: a file (.json, .jsonl, .csv, .tsv, .parquet), a "
            "folder of these, or a hub id; LABEL=PATH where a recipe has several. Repeatable.",
            metavar="[LABEL=]PATH",
            show_default=False,
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Change a field of the recipe: filters.max_answer_s=30. Repeatable.",
            metavar="KEY=VALUE",
            show_default=False,
        ),
    ] = None,
    processes: Annotated[
        int,
        typer.Option(help="How many work; the files do not depend on it.", metavar="NUMBER"),
    ] = 1,
    seed: Annotated[
        int | None,
        typer.Option(help="Of all that is drawn.", metavar="NUMBER", show_default="the recipe's"),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            help="At most so many records of each source.", metavar="NUMBER", show_default="all"
        ),
    ] = None,
    keep_work: Annotated[
        bool, typer.Option("--keep-work", help="Keep FOLDER/.work, the outcome of every stage.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Build a data set: rewrite, respond, synthesise, units, filter, write.

    Run the same command again after an interruption: it goes on where it stopped.
    """
    with one_line_errors(debug), _interrupted_by_sigterm():
        from llama_omni.data.build import build as build_set
        from llama_omni.data.named import find_recipe, with_paths
        from llama_omni.overrides import override

        chosen = with_paths(find_recipe(recipe), source or [])
        changes = [*(settings or []), *([] if seed is None else [f"seed={seed}"])]
        chosen = override(chosen, changes)
        with _shown() as show:
            summary = build_set(
                chosen,
                output,
                processes=processes,
                limit=limit,
                keep_work=keep_work,
                on_progress=show,
            )
        _tell(summary)


@data_app.command()
def info(
    folder: Annotated[Path, typer.Argument(help="A data set's folder.", metavar="FOLDER")],
    debug: Debug = False,
) -> None:
    """Show what a data set holds, and check every byte of it against its manifest."""
    with one_line_errors(debug):
        from llama_omni.data.shards import check_shard, read_manifest, read_shards
        from llama_omni.data.statistics import dataset_statistics, statistics_rows

        manifest, shards = read_manifest(folder), read_shards(folder)
        for shard in shards:
            check_shard(folder, shard, hashed=True)
        header, *rows = statistics_rows(dataset_statistics(folder, manifest))
        _table(header, rows)
        rejected = sum(manifest["rejects"].values())
        size = sum(shard.bytes for shard in shards)
        typer.echo(
            f"{len(shards)} shards, {size / 1e6:,.1f} MB, every hash is right; "
            f"{rejected:,} records were rejected; recipe {manifest['recipe']['name']}, "
            f"seed {manifest['seed']}"
        )


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """Take SIGTERM for Ctrl-C, so that the processes of the build are ended too.

    Only the first: who ends a group of processes often tells its first one twice.
    """

    def interrupt(_number: int, _frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _tell(summary: "BuildSummary") -> None:
    """Say what a build took and gave."""
    if not summary.stages:
        note("the data set was complete before; nothing was done")
    else:
        rows = [
            [
                stage,
                f"{cost.records:,}",
                f"{cost.rejected:,}",
                f"{cost.seconds:.1f}",
                f"{cost.records / cost.seconds:.1f}" if cost.records and cost.seconds else "",
            ]
            for stage, cost in summary.stages.items()
        ]
        _table(["stage", "records", "rejected", "s of one process", "records/s"], rows)
    if summary.usage.get("replies") or summary.usage.get("cached"):
        used = summary.usage
        typer.echo(
            f"chat server: {used['replies']:,.0f} replies, {used['cached']:,.0f} from the cache; "
            f"{used['input_tokens']:,.0f} tokens in, {used['output_tokens']:,.0f} out, "
            f"${used['cost']:.4f} (${used['saved']:.4f} saved)"
        )
    counts = ", ".join(f"{split} {rows:,}" for split, rows in summary.counts.items())
    typer.echo(f"{counts}; {sum(summary.rejects.values()):,} rejected")
    typer.echo(f"data set in {summary.folder}")


def _table(header: list[str], rows: list[list[str]]) -> None:
    """Print columns, numbers to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        typer.echo("  ".join(cells).rstrip())


@contextmanager
def _shown() -> Iterator[Callable[["StageProgress"], None]]:
    """Show how far each stage is: bars where somebody is looking, else a line now and then."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines().show
        return
    amount = TextColumn("{task.completed:,.0f}/{task.total:,.0f}")
    columns = (
        TextColumn("{task.description:>10}"),
        BarColumn(),
        amount,
        TextColumn("{task.fields[more]}"),
    )
    with Progress(*columns, console=console) as bar:
        tasks = {}

        def show(progress: "StageProgress") -> None:
            if progress.stage not in tasks:
                tasks[progress.stage] = bar.add_task(progress.stage, more="")
            more = _more(progress)
            bar.update(
                tasks[progress.stage], completed=progress.done, total=progress.total, more=more
            )

        yield show


class _Lines:
    """Progress as lines, one at the beginning and the end of a stage and some between."""

    def __init__(self) -> None:
        self._next = 0.0
        self._stage = ""

    def show(self, progress: "StageProgress") -> None:
        """Write a line where it is time for one."""
        now = time.monotonic()
        new, done = progress.stage != self._stage, progress.done == progress.total
        if progress.total and (new or done or now >= self._next):
            self._stage, self._next = progress.stage, now + _EVERY_S
            note(
                f"{progress.stage} {progress.done:,}/{progress.total:,} {_more(progress)}".rstrip()
            )


def _more(progress: "StageProgress") -> str:
    parts = [f"{progress.rejected:,} rejected"] if progress.rejected else []
    if progress.eta_s:
        minutes, seconds = divmod(round(progress.eta_s), 60)
        hours, minutes = divmod(minutes, 60)
        parts.append(f"{hours:d}:{minutes:02d}:{seconds:02d} left")
    return ", ".join(parts)
