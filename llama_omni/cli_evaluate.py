"""`llama-omni evaluate`: a system through the paper's tables, and two systems compared."""

import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from typer.core import TyperGroup

from llama_omni.cli_agreement import (
    JudgeCache,
    JudgeKey,
    JudgeSamples,
    JudgeTemperature,
    Price,
    agreement_command,
)
from llama_omni.cli_errors import hush_transformers, note, one_line_errors
from llama_omni.cli_measures import (
    METRICS,
    Asr,
    ControlVoice,
    JudgeModel,
    JudgeUrl,
    Metrics,
    Utmos,
    make_judge,
    make_synthesizer,
    measure_settings,
)
from llama_omni.cli_options import Debug, Device, Dtype, DtypeName, Seed, Threads, parse_chunk_size
from llama_omni.collector import here_to_stay
from llama_omni.errors import ConfigError
from llama_omni.interfaces import Reply, ReplyOptions, Turn

if TYPE_CHECKING:
    from llama_omni.evaluate.records import Condition


# An absolute path, alone or after the name of a set, a system or an option; a split may follow.
_FOLDERS = re.compile(r"(^|[:=])/(?!/)(?:[^:=]*/)?([^/:=]+)/?(:\w+(?:\.\w+)*)?$")


class _RunByDefault(TyperGroup):
    """`evaluate --system ...` is `evaluate run --system ...`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0].startswith("-") and args[0] not in ("--help", "-h"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


evaluate_app = typer.Typer(
    cls=_RunByDefault,
    no_args_is_help=True,
    help="Put a system through the paper's tables; compare two.",
)


Folder = Annotated[Path, typer.Argument(help="A results folder.", metavar="FOLDER")]


evaluate_app.command("agreement")(agreement_command)


@evaluate_app.command("run")
def run_command(
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="The results: a new folder, or one to go on with."),
    ],
    system: Annotated[
        str,
        typer.Option(
            help="embedded, a native folder, preset:NAME (random weights), or "
            "realtime:ws://HOST:PORT/v1?model=NAME.",
            metavar="NAME",
        ),
    ] = "embedded",
    set_name: Annotated[
        str,
        typer.Option(
            "--set",
            help="tiny, instructs2s_eval:FILE, openaudiobench:FOLDER[/SUBSET], folder:FOLDER of "
            "recordings, or FOLDER:SPLIT of a data set.",
            metavar="NAME",
        ),
    ] = "tiny",
    limit: Annotated[
        int | None,
        typer.Option(help="Only the first so many items.", metavar="N", show_default="all"),
    ] = None,
    mode: Annotated[
        str, typer.Option(help="s2tif (answers in text), s2sif (in speech too), or both.")
    ] = "s2tif,s2sif",
    omega: Annotated[
        str, typer.Option(help="Chunk sizes in units, with commas; inf: all at once.")
    ] = "10,inf",
    batch: Annotated[
        int, typer.Option(help="Asked at a time; times are true only with 1.", metavar="N")
    ] = 1,
    max_new_tokens: Annotated[
        int, typer.Option(help="Longest reply, in text tokens.", metavar="TOKENS")
    ] = 256,
    voice: Annotated[
        str,
        typer.Option(
            help="Speaks the instructions of a set that has only text, such as flite:slt.",
            metavar="VOICE",
            show_default="none",
        ),
    ] = "",
    metrics: Metrics = METRICS,
    asr: Asr = "",
    control_voice: ControlVoice = "",
    utmos: Utmos = None,
    judge_url: JudgeUrl = "",
    judge_model: JudgeModel = "",
    judge_samples: JudgeSamples = 1,
    judge_temperature: JudgeTemperature = 0.0,
    judge_key: JudgeKey = "OPENAI_API_KEY",
    judge_cache: JudgeCache = None,
    input_price: Price = 0.0,
    output_price: Price = 0.0,
    device: Device = "auto",
    dtype: DtypeName = Dtype.auto,
    threads: Threads = None,
    seed: Seed = 0,
    debug: Debug = False,
) -> None:
    """Ask a whole set, measure the replies, and write the report.

    May be stopped at any time and started again: nothing is asked or measured twice.
    """
    with one_line_errors(debug):
        from llama_omni.evaluate.measures import make_measures
        from llama_omni.evaluate.results import Results
        from llama_omni.evaluate.run import RunSettings, choose, run, unanswered
        from llama_omni.evaluate.sets import open_set

        settings = RunSettings(
            conditions=_conditions(mode, omega, system),
            batch=batch,
            seed=seed,
            max_new_tokens=max_new_tokens,
        )
        judge = make_judge(
            judge_url,
            judge_model,
            judge_samples,
            temperature=judge_temperature,
            api_key_env=judge_key,
            cache=judge_cache,
            input_price=input_price,
            output_price=output_price,
        )
        measures = make_measures(
            _names(metrics), measure_settings(asr, control_voice, utmos, judge, device)
        )
        test_set = open_set(set_name, voice=voice, open_synthesizer=make_synthesizer)
        for what in getattr(test_set, "left_out", ()):
            note(what)
        items = choose(test_set, limit)
        how = {"device": device, "dtype": dtype.value, "threads": threads, "seed": seed}
        facts = {
            "system": system,
            "conditions": [condition.name for condition in settings.conditions],
            "limit": limit,
            "seed": seed,
            "batch": batch,
            "max_new_tokens": max_new_tokens,
            **how,
            "command": _command(),
            "machine": _machine(device, dtype.value),
        }
        results = Results(output, test_set, items, facts)
        failed = 0
        if unanswered(items, results, settings):
            with _system(system, how, batch) as ask, _bar("asking") as show:
                failed = run(ask, test_set, items, results, settings, progress=show)
        if failed:
            note(f"{failed} replies failed; they are in the report, and asked again by a new run")
        _measure(output, measures, seed)


@evaluate_app.command("measure")
def measure_command(
    folder: Folder,
    metrics: Metrics = METRICS,
    asr: Asr = "",
    control_voice: ControlVoice = "",
    utmos: Utmos = None,
    judge_url: JudgeUrl = "",
    judge_model: JudgeModel = "",
    judge_samples: JudgeSamples = 1,
    judge_temperature: JudgeTemperature = 0.0,
    judge_key: JudgeKey = "OPENAI_API_KEY",
    judge_cache: JudgeCache = None,
    input_price: Price = 0.0,
    output_price: Price = 0.0,
    device: Device = "auto",
    seed: Seed = 0,
    debug: Debug = False,
) -> None:
    """Measure the replies of a results folder again, or more of them, without asking again."""
    with one_line_errors(debug):
        from llama_omni.evaluate.measures import make_measures

        judge = make_judge(
            judge_url,
            judge_model,
            judge_samples,
            temperature=judge_temperature,
            api_key_env=judge_key,
            cache=judge_cache,
            input_price=input_price,
            output_price=output_price,
        )
        settings = measure_settings(asr, control_voice, utmos, judge, device)
        _measure(folder, make_measures(_names(metrics), settings), seed)


@evaluate_app.command("report")
def report_command(
    folders: Annotated[
        list[Path], typer.Argument(help="Results folders of the same set.", metavar="FOLDERS...")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Where it goes.", show_default="the one folder"),
    ] = None,
    title: Annotated[str, typer.Option(help="Of the report.", show_default="what it is of")] = "",
    debug: Debug = False,
) -> None:
    """Write the report of one or several systems again."""
    with one_line_errors(debug):
        from llama_omni.evaluate.report import write_report

        typer.echo(f"report in {write_report(folders, output, title=title)}")


@evaluate_app.command("compare")
def compare_command(
    before: Annotated[Path, typer.Argument(help="A results folder.", metavar="A")],
    after: Annotated[Path, typer.Argument(help="Another of the same set.", metavar="B")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to make.")],
    seed: Seed = 0,
    debug: Debug = False,
) -> None:
    """Compare two systems on the same items, with paired intervals and tests."""
    with one_line_errors(debug):
        from llama_omni.evaluate.compare import compare

        typer.echo(f"comparison in {compare(before, after, output, seed=seed)}")


def _measure(folder: Path, measures: Sequence[Any], seed: int) -> None:
    from llama_omni.evaluate.measuring import measure
    from llama_omni.evaluate.report import write_report

    with _bar("measuring") as show:
        measure(folder, measures, seed=seed, progress=lambda name, done, of: show(done, of, name))
    for one in measures:
        usage = getattr(one, "usage", None)
        if usage is not None and one.missing is None:
            note(f"judge: {usage}")
    typer.echo(f"report in {write_report(folder)}")


def _conditions(mode: str, omega: str, system: str) -> "tuple[Condition, ...]":
    from llama_omni.evaluate.records import MODES, Condition

    if system.startswith("realtime:") and "s2sif" in _names(mode) and len(_names(omega)) != 1:
        raise ConfigError(
            "--omega must be the one chunk size that the server was started with, as the Realtime "
            f"API cannot change it, got {omega!r}"
        )
    found: list[Condition] = []
    for name in _names(mode):
        if name not in MODES:
            raise ConfigError(f"--mode must be of {', '.join(MODES)}, got {name!r}")
        if name == "s2tif":
            found.append(Condition(mode="s2tif"))
            continue
        for text in _names(omega):
            size = parse_chunk_size(text)
            ReplyOptions(chunk_size=size)  # refuses what is no size
            found.append(Condition(mode="s2sif", chunk_size=size))
    return tuple(dict.fromkeys(found))


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


@contextmanager
def _system(
    name: str, how: dict[str, Any], batch: int
) -> Iterator[Callable[[Turn, ReplyOptions], Reply]]:
    """Load a system, and give what asks it."""
    kind, _, rest = name.partition(":")
    if kind == "realtime":
        from llama_omni.backends.realtime_assistant import RealtimeAssistant
        from llama_omni.backends.realtime_options import RealtimeOptions

        assistant = RealtimeAssistant(RealtimeOptions.of(rest))
        yield lambda turn, options: assistant.reply(turn, options)
        return
    options = dict(how)
    if kind == "preset":
        options |= {"preset": rest, "random_weights": True}
    elif name != "embedded":
        options |= {"model": name}
    if batch > 1:
        from llama_omni.evaluate.together import Together
        from llama_omni.remote.client import RemoteEngine
        from llama_omni.remote.factory import Factory

        engine = RemoteEngine(Factory("llama_omni.loading:load_engine", options))
        with Together(engine) as together:
            yield together.ask
        return
    import llama_omni

    with here_to_stay():
        hush_transformers()
        loaded = llama_omni.load(options.pop("model", None), **options)
    yield lambda turn, asked: loaded.reply(turn, asked)


def _machine(device: str, dtype: str) -> dict[str, Any]:
    import torch

    from llama_omni.bench.machine import describe

    known = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    place = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    return describe(torch.device(place), known.get(dtype, torch.float32))


def _command() -> str:
    """Return the command as it was given, without the folders of this machine."""
    words = [_FOLDERS.sub(r"\1\2\3", word) for word in sys.argv[1:]]
    return shlex.join(["llama-omni", *words])


@contextmanager
def _bar(what: str) -> Iterator[Callable[..., None]]:
    """Show how many of how many are done, and how long the rest takes, where somebody looks."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, of, name=what: None  # noqa: ARG005
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task(what, total=None)

        def show(done: int, of: int, name: str = what) -> None:
            bar.update(task, completed=done, total=of, description=name)

        yield show
