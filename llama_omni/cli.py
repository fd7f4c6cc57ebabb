"""The command line, the only place that joins the parts and the only one that prints.

Everything that is refused on purpose ends in one line on the standard error and exit code 2. No
torch is imported until a model is needed, so help is quick.
"""

import io
import sys
import traceback
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

import llama_omni
from llama_omni.cli_chat import chat
from llama_omni.cli_data import data_app
from llama_omni.cli_errors import (
    INTERRUPTED,
    REFUSED,
    hush_transformers,
    note,
    one_line_errors,
    say_error,
)
from llama_omni.cli_evaluate import evaluate_app
from llama_omni.cli_jobs import Job, plan
from llama_omni.cli_options import (
    ChunkSize,
    Debug,
    Device,
    Dtype,
    DtypeName,
    Lookahead,
    MaxNewTokens,
    ModelName,
    PresetName,
    RandomWeights,
    Seed,
    StoredDtype,
    System,
    Temperature,
    Threads,
    TopP,
    check_preset,
    parse_chunk_size,
)
from llama_omni.cli_parts import train_app
from llama_omni.cli_serve import serve
from llama_omni.cli_view import Player, byte_bar, json_line, summary, working
from llama_omni.collector import here_to_stay
from llama_omni.errors import ConfigError, LlamaOmniError
from llama_omni.interfaces import (
    Assistant,
    AudioDelta,
    Reply,
    ReplyDone,
    ReplyEvent,
    ReplyOptions,
    TextDelta,
    Turn,
)
from llama_omni.terminal.screen import printable

app = typer.Typer(
    help="Talk with a language model: ask by voice or in writing, hear and read the answer.",
    epilog="Every command has its own --help. Paper: arXiv 2409.06666.",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


app.add_typer(data_app, name="data")
app.add_typer(train_app, name="train")
app.add_typer(evaluate_app, name="evaluate")
app.command()(chat)
app.command()(serve)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 2 (refused) or 130 (interrupted)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(
            stream, io.TextIOWrapper
        ):  # a terminal that cannot show a character shows "?"
            stream.reconfigure(errors="replace")
    arguments = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        code = app(args=arguments, prog_name="llama-omni", standalone_mode=False)
    except _UsageError as error:
        help_of = error.ctx.command_path if error.ctx else "llama-omni"
        say_error(f"{error.format_message()} (see: {help_of} --help)")
        return REFUSED
    except typer.Abort:
        return INTERRUPTED
    return code if isinstance(code, int) else 0


# The base of what typer says about wrong arguments, wherever its version keeps it.
_UsageError: Any = typer.BadParameter.__bases__[0]


def _version(wanted: bool) -> bool:
    if wanted:
        print(f"llama-omni {llama_omni.__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", callback=_version, is_eager=True
        ),
    ] = False,
) -> None:
    pass


@app.command()
def ask(
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Spoken questions: WAV, FLAC, OGG or MP3, 0.1 to 30 s, any rate.",
            metavar="INPUTS",
            show_default=False,
        ),
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="A written question, in place of INPUTS.", metavar="TEXT")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Where the answer's sound goes: a file (.wav, .flac, .ogg, .mp3), or a folder "
            "that gets one .wav named after each input.",
            metavar="FILE|FOLDER",
        ),
    ] = None,
    model: ModelName = None,
    preset: PresetName = None,
    random_weights: RandomWeights = False,
    device: Device = "auto",
    dtype: DtypeName = Dtype.auto,
    chunk_size: ChunkSize = "10",
    lookahead: Lookahead = None,
    max_new_tokens: MaxNewTokens = 256,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = 0,
    system: System = None,
    threads: Threads = None,
    no_speech: Annotated[bool, typer.Option("--no-speech", help="Answer in writing only.")] = False,
    play: Annotated[bool, typer.Option("--play", help="Play the answer while it is made.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one line of JSON a reply and nothing else.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Ask a question; read the answer as it comes, and hear it.

    Ends with the time to first audio, the real-time factor (seconds of work a second of sound),
    the lagging words (those written before the sound began), and where the sound is.
    """
    with one_line_errors(debug):
        options = ReplyOptions(
            chunk_size=parse_chunk_size(chunk_size),
            lookahead=lookahead,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            speech=not no_speech,
        )
        if no_speech and (output is not None or play):
            raise ConfigError("--no-speech makes no sound: leave out --output and --play")
        check_preset(preset)
        jobs = plan(inputs or [], text, output)
        show = _Show(json=as_json, names=len(jobs) > 1, player=Player() if play else None)
        assistant, refused = None, False
        for job in jobs:
            try:
                question = job.read()
            except LlamaOmniError as error:
                refused = _report(error, debug, job)
                continue
            if assistant is None:  # only now: a bad question is told before a long load
                with working(f"loading {model or preset or 'the embedded model'}"):
                    assistant = _load(
                        model,
                        preset=preset,
                        random_weights=random_weights,
                        device=device,
                        dtype=dtype.value,
                        seed=seed,
                        system=system,
                        threads=threads,
                    )
                if random_weights:
                    note("random weights: words and sound mean nothing")
            try:
                _answer(assistant, job, question, options, show)
            except LlamaOmniError as error:
                refused = _report(error, debug, job)
        if refused:
            raise typer.Exit(REFUSED)


@app.command()
def convert(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder to make.", metavar="FOLDER")
    ],
    source: Annotated[
        Path | None,
        typer.Argument(
            help="The released folder (config.json and *.safetensors); none for a vocoder alone.",
            metavar="SOURCE",
            show_default=False,
        ),
    ] = None,
    speech_encoder: Annotated[
        Path | None,
        typer.Option(help="Whisper: OpenAI's .pt file, or a folder.", metavar="FILE|FOLDER"),
    ] = None,
    vocoder: Annotated[
        Path | None, typer.Option(help="A unit vocoder of fairseq (g_*).", metavar="FILE")
    ] = None,
    vocoder_config: Annotated[
        Path | None, typer.Option(help="Its config.json.", metavar="FILE")
    ] = None,
    kmeans: Annotated[
        Path | None,
        typer.Option(help="Unit centres: .npy, or joblib's with --trust-pickle.", metavar="FILE"),
    ] = None,
    trust_pickle: Annotated[
        bool,
        typer.Option(
            "--trust-pickle",
            help="Open pickled files, which can run any program on this machine as you. Only for "
            "files from a source you trust.",
        ),
    ] = False,
    dtype: StoredDtype = Dtype.auto,
    debug: Debug = False,
) -> None:
    """Turn a released checkpoint into one folder that ask can load.

    Reads shard by shard, so a model much larger than memory is fine. Without SOURCE, --vocoder
    alone is turned into a folder that train can load.
    """
    with one_line_errors(debug):
        from llama_omni.checkpoint import convert as convert_checkpoint
        from llama_omni.checkpoint import convert_vocoder

        hush_transformers()
        if source is None:
            if vocoder is None or speech_encoder is not None or kmeans is not None:
                raise ConfigError("SOURCE must be given, unless --vocoder alone is converted")
            convert_vocoder(vocoder=vocoder, vocoder_config=vocoder_config, output=output)
            print(f"vocoder in {output}")
            return
        with byte_bar() as progress:
            convert_checkpoint(
                source=source,
                output=output,
                speech_encoder=speech_encoder,
                vocoder=vocoder,
                vocoder_config=vocoder_config,
                kmeans=kmeans,
                trust_pickle=trust_pickle,
                dtype=dtype.value,
                progress=progress,
            )
        print(f"model in {output}")
        if vocoder is None:
            note("without --vocoder the model has no voice; ask needs one")


@app.command()
def bench(
    preset: PresetName = "tiny",
    device: Device = "auto",
    dtype: DtypeName = Dtype.auto,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Where the tables go.", metavar="FOLDER"),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer lengths and repeats.")] = False,
    debug: Debug = False,
) -> None:
    """Measure time to first audio, time per token, and memory, with random weights."""
    with one_line_errors(debug):
        from llama_omni.bench import run_bench

        hush_transformers()
        run_bench(preset=preset, device=device, dtype=dtype.value, output=output, quick=quick)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Show:
    """How replies are shown."""

    json: bool
    names: bool  # say which input a reply answers
    player: Player | None


def _answer(
    assistant: Assistant, job: Job, question: Turn, options: ReplyOptions, show: _Show
) -> None:
    """Show one reply while it is made, then keep its sound."""
    if show.names and not show.json:
        print(f"{job.name}:")
    reply: Reply | None = None
    try:
        with _closing(assistant.stream(question, options)) as events:
            for event in events:
                match event:
                    case TextDelta(text=text) if not show.json:
                        print(printable(text), end="", flush=True)
                    case AudioDelta(audio=samples, sample_rate=rate) if show.player is not None:
                        show.player.play(samples, rate)
                    case ReplyDone():
                        reply = event.reply
                    case _:
                        pass
    finally:
        if not show.json:
            print(flush=True)
    assert reply is not None, "the last event of a reply is ReplyDone"
    kept = job.output if len(reply.audio) else None
    if kept is not None:
        reply.save(kept)
    elif job.output is not None:  # an older answer is not this one's
        job.output.unlink(missing_ok=True)
    if show.json:
        print(json_line(job.name, reply, kept), flush=True)
    else:
        print(summary(reply, job.output), flush=True)
    if show.player is not None:
        show.player.finish()


def _closing(events: Iterator[ReplyEvent]) -> AbstractContextManager[Iterator[ReplyEvent]]:
    """Cancel the reply where its events are not taken to the end, as on Ctrl-C."""
    return closing(events) if isinstance(events, Generator) else nullcontext(events)


def _load(model: str | None, **options: Any) -> Assistant:
    with here_to_stay():
        hush_transformers()
        return llama_omni.load(model, **options)


def _report(error: LlamaOmniError, debug: bool, job: Job | None = None) -> bool:
    if debug:
        traceback.print_exception(error)
    message = " ".join(str(error).split())
    if job is not None and job.path is not None and str(job.path) not in message:
        message = f"{job.path}: {message}"
    say_error(message)
    return True


if __name__ == "__main__":
    sys.exit(main())
