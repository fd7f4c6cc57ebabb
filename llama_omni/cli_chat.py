"""`llama-omni chat`: talk at a terminal, with microphone and speakers or by typing."""

import asyncio
import logging
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from llama_omni.cli_errors import note, one_line_errors
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
    System,
    Temperature,
    Threads,
    TopP,
    check_preset,
    parse_chunk_size,
)
from llama_omni.cli_serve import check_extra
from llama_omni.cli_view import working
from llama_omni.errors import ConfigError, LlamaOmniError
from llama_omni.interfaces import ReplyOptions
from llama_omni.terminal.devices import Devices
from llama_omni.terminal.sound import Microphone, Speakers

# What the extra "serve" holds of a session, by the names they are imported under.
_SESSION, _VOICE = ("pydantic", "prometheus_client"), ("onnxruntime", "silero_vad")


def chat(
    model: ModelName = None,
    preset: PresetName = None,
    random_weights: RandomWeights = False,
    device: Device = "auto",
    dtype: DtypeName = Dtype.auto,
    threads: Threads = None,
    system: System = None,
    chunk_size: ChunkSize = "10",
    lookahead: Lookahead = None,
    max_new_tokens: MaxNewTokens = 256,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = 0,
    microphone: Annotated[
        bool | None,
        typer.Option(
            "--microphone/--no-microphone",
            help="Listen, or take typed lines only.",
            show_default="listen, where a microphone is and lines are typed",
        ),
    ] = None,
    speakers: Annotated[
        bool | None,
        typer.Option(
            "--speakers/--no-speakers",
            help="Answer aloud, or in writing only.",
            show_default="aloud, where speakers are",
        ),
    ] = None,
    input_device: Annotated[
        str | None,
        typer.Option(help="A microphone: its number, or a part of its name.", metavar="NAME"),
    ] = None,
    output_device: Annotated[
        str | None,
        typer.Option(help="Speakers: their number, or a part of their name.", metavar="NAME"),
    ] = None,
    list_devices: Annotated[
        bool, typer.Option("--list-devices", help="Show the sound devices and exit.")
    ] = False,
    half_duplex: Annotated[
        bool,
        typer.Option(
            "--half-duplex",
            help="Hear nothing while an answer sounds: for loudspeakers, which would interrupt it.",
        ),
    ] = False,
    speculate: Annotated[
        bool,
        typer.Option(help="Begin the reply at a short pause, unseen; it may be for nothing."),
    ] = True,
    debug: Debug = False,
) -> None:
    """Talk: speak or type, hear and read the answer, interrupt it.

    Speaking, or Enter, stops an answer; /quit, Ctrl-D and Ctrl-C leave. Wear headphones, or give
    --half-duplex, lest the microphone hear the answer. Lines from a pipe are answered in order.
    Answers go to the standard output, all else to the standard error.
    """
    with one_line_errors(debug):
        if list_devices:
            typer.echo(Devices().listing())
            return
        check_preset(preset)
        options = ReplyOptions(
            chunk_size=parse_chunk_size(chunk_size),
            lookahead=lookahead,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
        )
        how = {
            "model": model,
            "preset": preset,
            "random_weights": random_weights,
            "device": device,
            "dtype": dtype.value,
            "seed": seed,
            "system": system,
            "threads": threads,
        }
        check_extra(_SESSION, "a talk")
        sound = _Sound.choose(microphone, speakers, input_device, output_device)
        if sound.microphone is not None:
            check_extra(_VOICE, "listening")
        logging.basicConfig(level=logging.DEBUG if debug else logging.CRITICAL)
        asyncio.run(_chat(how, options, sound, speculate=speculate, half_duplex=half_duplex))


@dataclass(frozen=True, slots=True)
class _Sound:
    """The devices of a talk."""

    microphone: Microphone | None
    speakers: Speakers | None

    @classmethod
    def choose(
        cls,
        microphone: bool | None,
        speakers: bool | None,
        input_device: str | None,
        output_device: str | None,
    ) -> "_Sound":
        """Find what is wanted; do without what nobody asked for by name, and say so.

        Raises:
            LlamaOmniError: what was asked for is not there.
        """
        if microphone is False and input_device is not None:
            raise ConfigError("--no-microphone listens to nothing: leave out --input-device")
        if speakers is False and output_device is not None:
            raise ConfigError("--no-speakers makes no sound: leave out --output-device")
        if microphone is None and input_device is None and not sys.stdin.isatty():
            microphone = False  # lines come from a pipe
        heard = said = None
        absent: dict[str, list[str]] = {}  # what is done without, by the reason
        if microphone is not False:
            try:
                heard = Devices().microphone(input_device)
            except LlamaOmniError as error:
                if microphone or input_device is not None:
                    raise
                absent.setdefault(str(error), []).append("no microphone, type your questions")
        if speakers is not False:
            try:
                said = Devices().speakers(output_device)
            except LlamaOmniError as error:
                if speakers or output_device is not None:
                    raise
                absent.setdefault(str(error), []).append("no speakers, read the answers")
        for reason, what in absent.items():
            note(f"{'; '.join(what)}: {reason}")
        return cls(heard, said)


async def _chat(
    how: dict[str, Any],
    options: ReplyOptions,
    sound: _Sound,
    *,
    speculate: bool,
    half_duplex: bool,
) -> None:
    from llama_omni.remote.client import RemoteEngine
    from llama_omni.remote.factory import Factory
    from llama_omni.serve.dialogue import Around
    from llama_omni.serve.hearing import Ears
    from llama_omni.serve.limits import ModelFacts, SessionLimits
    from llama_omni.serve.metrics import ServeMetrics
    from llama_omni.serve.session import Session
    from llama_omni.serve.vad import SileroVad
    from llama_omni.terminal.lines import read_lines
    from llama_omni.terminal.listening import Deaf
    from llama_omni.terminal.screen import Screen
    from llama_omni.terminal.talk import Talk

    engine = RemoteEngine(Factory("llama_omni.loading:load_engine", how), restart=False)
    try:
        with working(f"loading {how['model'] or how['preset'] or 'the embedded model'}"):
            await engine.start()
        facts = ModelFacts(
            sample_rate=engine.sample_rate,
            speculate=speculate,
            max_output_tokens=options.max_new_tokens,
            options=options,
        )
        with ThreadPoolExecutor(1, "hearing") as threads:
            around = Around(
                engine=engine,
                metrics=ServeMetrics(engine),
                recognizer=None,
                make_ears=lambda: Ears(SileroVad if sound.microphone else Deaf, threads),
                may_speculate=lambda: True,
            )
            talk = Talk(
                Session(facts, SessionLimits(max_session_s=None, max_items=10_000)),
                around,
                Screen(sys.stdout, sys.stderr),
                microphone=sound.microphone,
                speakers=sound.speakers,
                half_duplex=half_duplex,
            )
            with suppress(NotImplementedError):  # Windows: Ctrl-C is an exception there
                asyncio.get_running_loop().add_signal_handler(signal.SIGINT, talk.leave)
            is_typed = sys.stdin.isatty()
            if is_typed:
                note(_greeting(sound, half_duplex))
            await talk.run(read_lines(sys.stdin), patient=not is_typed)
    finally:
        await engine.close()


def _greeting(sound: _Sound, half_duplex: bool) -> str:
    """Say in one line how to talk."""
    ways = "speak, or type a line" if sound.microphone else "type a line"
    aloud = sound.microphone and sound.speakers and not half_duplex
    advice = "; with loudspeakers rather than headphones give --half-duplex" if aloud else ""
    return f"{ways}; Enter stops an answer; /quit leaves{advice}"
