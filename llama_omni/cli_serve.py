"""`llama-omni serve`: many conversations at once, over the Realtime API, with a page."""

import asyncio
import importlib.util
import logging
from collections.abc import Iterable
from pathlib import Path
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
from llama_omni.errors import ConfigError, MissingExtraError
from llama_omni.interfaces import ReplyOptions

_MIB = 2**20

# What the extra holds, by the names they are imported under.
_NEEDED = ("fastapi", "uvicorn", "prometheus_client", "onnxruntime", "silero_vad")


def serve(
    host: Annotated[
        str,
        typer.Option(help="Address to listen at; all but this machine's own need a key."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at; 0 takes a free one.")] = 8000,
    model: ModelName = None,
    preset: PresetName = None,
    random_weights: RandomWeights = False,
    device: Device = "auto",
    dtype: DtypeName = Dtype.auto,
    threads: Threads = None,
    system: System = None,
    chunk_size: ChunkSize = "10",
    lookahead: Lookahead = None,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = 0,
    max_new_tokens: Annotated[
        int, typer.Option(help="Longest reply, whatever a client asks for.", metavar="TOKENS")
    ] = 1_024,
    name: Annotated[
        str, typer.Option(help="The model's name in the API.", metavar="NAME")
    ] = "llama-omni",
    api_keys: Annotated[
        Path | None,
        typer.Option(
            help="Keys that callers may use, one a line; also LLAMA_OMNI_API_KEY.",
            metavar="FILE",
            show_default="none",
        ),
    ] = None,
    origin: Annotated[
        list[str] | None,
        typer.Option(
            help="A page from elsewhere that may connect, such as https://example.org; * is any.",
            metavar="URL",
            show_default="this server's own page",
        ),
    ] = None,
    max_sessions: Annotated[
        int, typer.Option(help="Sessions at a time; more are refused.", metavar="NUMBER")
    ] = 64,
    max_per_address: Annotated[
        int, typer.Option(help="Of them, from one address; 0 is any number.", metavar="NUMBER")
    ] = 0,
    max_session_s: Annotated[
        float, typer.Option(help="Longest session; 0 is for ever.", metavar="SECONDS")
    ] = 3_600.0,
    max_turn_s: Annotated[
        float, typer.Option(help="Longest spoken turn.", metavar="SECONDS")
    ] = 30.0,
    max_audio_s: Annotated[
        float,
        typer.Option(help="Sound that a session keeps; the oldest makes room.", metavar="SECONDS"),
    ] = 600.0,
    max_event_mib: Annotated[
        float, typer.Option(help="Largest event of a client.", metavar="MIB")
    ] = 15.0,
    max_batch: Annotated[
        int, typer.Option(help="Replies that are made at the same time.", metavar="NUMBER")
    ] = 64,
    max_waiting: Annotated[
        int, typer.Option(help="Replies that wait for room; more are refused.", metavar="NUMBER")
    ] = 64,
    cache_mib: Annotated[
        float | None,
        typer.Option(
            help="Memory for the keys and values of all conversations.",
            metavar="MIB",
            show_default="a share of what is free",
        ),
    ] = None,
    hang_s: Annotated[
        float,
        typer.Option(
            help="Start the engine again when it gives no sign of life for so long.",
            metavar="SECONDS",
        ),
    ] = 60.0,
    drain_s: Annotated[
        float, typer.Option(help="For answers to end after SIGTERM.", metavar="SECONDS")
    ] = 30.0,
    speculate: Annotated[
        bool,
        typer.Option(help="Begin the reply at a short pause, unseen; it may be for nothing."),
    ] = True,
    recognizer: Annotated[
        str | None,
        typer.Option(
            help="Write down what is said, for clients that ask: pocketsphinx[:FILE.lm].",
            metavar="NAME",
            show_default="none",
        ),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(
            help="Record every session, sound and words, in this folder. People must know.",
            metavar="DIR",
            show_default="nothing is kept",
        ),
    ] = None,
    tls_certificate: Annotated[
        Path | None, typer.Option(help="Serve TLS with this PEM file.", metavar="FILE")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(help="The certificate's key.", metavar="FILE")
    ] = None,
    debug: Debug = False,
) -> None:
    """Serve many conversations at once, over the Realtime API, with a page to talk to.

    Stock OpenAI Realtime clients connect to ws://HOST:PORT/v1/realtime, people to the page at /.
    Also there: /healthz, /readyz, /metrics. SIGTERM lets the answers end that are being given.
    """
    with one_line_errors(debug):
        check_extra(_NEEDED, "serving")
        from llama_omni.engine.settings import EngineSettings
        from llama_omni.serve.keys import read_keys
        from llama_omni.serve.limits import ModelFacts, SessionLimits
        from llama_omni.serve.origins import is_loopback
        from llama_omni.serve.running import Address
        from llama_omni.serve.serve_settings import ServeSettings

        check_preset(preset)
        keys = read_keys(api_keys)
        if not keys and not is_loopback(host):
            raise ConfigError(
                f"--host must be this machine's own (127.0.0.1) without keys, got {host!r}; give "
                "--api-keys FILE or LLAMA_OMNI_API_KEY"
            )
        options = ReplyOptions(
            chunk_size=parse_chunk_size(chunk_size),
            lookahead=lookahead,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
        )
        settings = ServeSettings(
            model=ModelFacts(
                name=name,
                speculate=speculate,
                max_output_tokens=max_new_tokens,
                options=options,
            ),
            limits=SessionLimits(
                max_session_s=max_session_s or None,
                max_turn_s=max_turn_s,
                max_audio_s=max_audio_s,
                max_event_bytes=int(max_event_mib * _MIB),
            ),
            keys=keys,
            origins=tuple(origin or ()),
            max_sessions=max_sessions,
            max_per_address=max_per_address or None,
            drain_s=drain_s,
            record=record,
        )
        bounds: dict[str, Any] = {"max_rows": max_batch, "max_waiting": max_waiting}
        if cache_mib is not None:
            bounds["cache_bytes"] = int(cache_mib * _MIB)
        EngineSettings(**bounds)  # what is impossible is refused here, before anything is loaded
        address = Address(
            host=host, port=port, certificate=tls_certificate, certificate_key=tls_key
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
            "bounds": bounds,
        }
        logging.basicConfig(
            level=logging.DEBUG if debug else logging.INFO,
            format="%(asctime)s %(levelname)s %(name)s %(message)s",
        )
        if not debug:
            logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        logging.getLogger("websockets").setLevel(logging.INFO)  # its remarks hold frames
        asyncio.run(_serve(settings, address, how, hang_s, recognizer))


async def _serve(
    settings: Any, address: Any, how: dict[str, Any], hang_s: float, recognizer: str | None
) -> None:
    from llama_omni.remote.client import RemoteEngine
    from llama_omni.remote.factory import Factory
    from llama_omni.remote.recognizer import RemoteRecognizer
    from llama_omni.serve.app import create_app
    from llama_omni.serve.running import run

    engine = RemoteEngine(Factory("llama_omni.loading:load_engine", how), hang_s=hang_s)
    writer: RemoteRecognizer | None = None
    if recognizer is not None:
        writer = RemoteRecognizer(
            Factory("llama_omni.backends.asr:open_recognizer", {"spec": recognizer})
        )

    async def load() -> None:
        if writer is not None:
            await asyncio.to_thread(writer.start)
        await engine.start()

    def started(url: str) -> None:
        note(f"talk at {url} (clients: {url.replace('http', 'ws', 1)}v1/realtime)")
        if settings.record is not None:
            note(f"every session is recorded in {settings.record}")

    try:
        app = create_app(engine, settings, recognizer=writer)
        await run(app, address, load=load, started=started)
    finally:
        if writer is not None:
            writer.close()
        await engine.close()


def check_extra(packages: Iterable[str], purpose: str) -> None:
    """See that these packages of the extra "serve" are installed.

    Raises:
        MissingExtraError: one is not.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "serve", purpose)
