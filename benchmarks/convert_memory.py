"""Measure what `convert` takes: anonymous memory, time, bytes.

    python -m benchmarks.convert_memory                # the published run: 8b shapes, 32 layers
    python -m benchmarks.convert_memory --layers 4     # about 6 GB

Makes a synthetic checkpoint in the released layout (the 8b model's shapes, noise for weights, the
encoder in the shards and as openai's `.pt`), converts it in a fresh process, and samples RssAnon
there: memory that is no file's and cannot be dropped. Beside it, in other fresh processes: reading
the largest shard and writing it again with the safetensors library. Both once in the dtype that is
stored and once in another. The big files go afterwards.
"""

import argparse
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from llama_omni import __version__
from llama_omni.bench.machine import cpu_name
from llama_omni.bench.report import table
from llama_omni.checkpoint import convert, empty_model
from llama_omni.checkpoint.released import RELEASED_TYPE, released_name
from llama_omni.checkpoint.released_encoder import openai_name
from llama_omni.checkpoint.safetensors_write import NewTensor, write_folder
from llama_omni.model.config import OmniConfig, SpeechDecoderConfig
from llama_omni.model.presets import preset

RESULTS = Path(__file__).parent / "results"
SAMPLE_S = 0.002
SHARD_BYTES = 5 * 10**9  # as released
BOUND = 1.3  # times the largest shard, and the encoder once
LAYERS = 32  # of the LLM, as released
DTYPES = ("float16", "bfloat16")  # what is stored, and another
PIECE = torch.randn(1 << 22, generator=torch.Generator().manual_seed(0)).mul(0.02).half()


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One process: what it held and how long it took."""

    what: str
    dtype: str
    anonymous_before: int  # bytes, after imports
    anonymous_peak: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Result:
    """The whole run."""

    layers: int
    source_bytes: int
    output_bytes: int
    shards: list[int]  # bytes of each
    encoder_bytes: int
    bound_bytes: int
    measured: list[Measured]
    machine: dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Make, convert, measure, report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.convert_memory")
    add = parser.add_argument
    add("--layers", type=int, default=LAYERS, help="of the LLM: 0.44 GB each")
    add("--folder", type=Path, help="where the big files go for a while; default: the system's")
    add("-o", "--output", type=Path, default=RESULTS, help="where the results go")
    add("--measure", nargs=4, help=argparse.SUPPRESS)  # what happens in a fresh process
    options = parser.parse_args(arguments)
    if options.measure:
        print(json.dumps(asdict(_measure(*options.measure))))
        return
    folder = Path(tempfile.mkdtemp(prefix="convert-memory-", dir=options.folder))
    try:
        result = _run(folder, options.layers)
    finally:
        shutil.rmtree(folder)
    options.output.mkdir(parents=True, exist_ok=True)
    text = json.dumps(asdict(result), indent=1)
    (options.output / "convert-memory.json").write_text(text + "\n", encoding="utf-8")
    (options.output / "convert-memory.md").write_text(_markdown(result), encoding="utf-8")
    print(_markdown(result))


def _run(folder: Path, layers: int) -> Result:
    source = folder / "source"
    source.mkdir()
    make_release(source, layers)
    shards = sorted(source.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    measured, output_bytes = [], 0
    for dtype in DTYPES:
        measured.append(_in_fresh_process("convert", dtype, source, folder / "native"))
        output_bytes = _bytes(folder / "native")
        shutil.rmtree(folder / "native")
    for dtype in DTYPES:
        target = folder / "again.safetensors"
        measured.append(_in_fresh_process("library", dtype, shards[-1], target))
        target.unlink()
    encoder_bytes = (source / "whisper.pt").stat().st_size
    largest = shards[-1].stat().st_size
    return Result(
        layers=layers,
        source_bytes=_bytes(source),
        output_bytes=output_bytes,
        shards=[path.stat().st_size for path in shards],
        encoder_bytes=encoder_bytes,
        bound_bytes=int(BOUND * largest) + encoder_bytes,
        measured=measured,
        machine={
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
            "system": f"{platform.system()} {platform.machine()}",
            "date": datetime.now(UTC).date().isoformat(),
            "versions": {
                "llama-omni": __version__,
                "python": platform.python_version(),
                **{name: version(name) for name in ("torch", "transformers", "safetensors")},
            },
        },
    )


@dataclass(frozen=True, kw_only=True)
class Noise:
    """A tensor of noise that is nowhere: the same piece again and again."""

    name: str
    shape: tuple[int, ...]
    path: Path = Path("noise")
    dtype: torch.dtype = torch.float16

    def pieces(self) -> Iterator[Tensor]:
        """Yield as many values as the shape has."""
        left = math.prod(self.shape)
        while left:
            piece = PIECE[:left]
            left -= len(piece)
            yield piece


def make_release(folder: Path, layers: int) -> None:
    """Write a synthetic checkpoint in the released layout."""
    config = _config(layers)
    shapes = {name: tuple(like.shape) for name, like in empty_model(config).state_dict().items()}
    tensors, whisper = [], {}
    for name, shape in shapes.items():
        if name.startswith("encoder."):
            theirs = openai_name(name.removeprefix("encoder."))
            whisper[f"encoder.{theirs}"] = torch.cat(list(Noise(name=name, shape=shape).pieces()))
            whisper[f"encoder.{theirs}"] = whisper[f"encoder.{theirs}"].view(shape)
            theirs = f"model.speech_encoder.{theirs}"
        else:
            theirs = released_name(name)
        source = Noise(name=theirs, shape=shape)
        tensors.append(NewTensor(name=theirs, source=source, dtype=source.dtype))
    write_folder(folder, tensors, max_shard_bytes=SHARD_BYTES)
    encoder = config.encoder
    dims = {
        "n_mels": encoder.num_mel_bins,
        "n_audio_ctx": encoder.max_source_positions,
        "n_audio_state": encoder.d_model,
        "n_audio_head": encoder.encoder_attention_heads,
        "n_audio_layer": encoder.encoder_layers,
    }
    torch.save({"dims": dims, "model_state_dict": whisper}, folder / "whisper.pt")
    (folder / "config.json").write_text(json.dumps(_released_config(config)), encoding="utf-8")
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")


def _config(layers: int) -> OmniConfig:
    full = preset("8b")
    full.llm.num_hidden_layers = layers
    rope = full.speech_decoder.rope_parameters
    return OmniConfig(
        encoder=full.encoder,
        llm=full.llm,
        speech_decoder=SpeechDecoderConfig(rope_parameters=rope),
    )


def _released_config(config: OmniConfig) -> dict[str, Any]:
    decoder = config.speech_decoder
    sizes = (decoder.num_layers, decoder.hidden_size, decoder.num_heads, decoder.intermediate_size)
    return config.llm.to_dict() | {
        "model_type": RELEASED_TYPE,
        "torch_dtype": "float16",
        "speech_encoder": "whisper.pt",
        "speech_encoder_ds_rate": config.adapter.stack,
        "speech_encoder_hidden_size": config.encoder.d_model,
        "ctc_decoder_config": "({},{},{},{})".format(*sizes),
        "ctc_upsample_factor": decoder.upsample_factor,
        "unit_vocab_size": decoder.num_units,
        "tokenizer_model_max_length": config.max_positions,
    }


def _in_fresh_process(what: str, dtype: str, source: Path, target: Path) -> Measured:
    command = [sys.executable, "-m", "benchmarks.convert_memory", "--measure", what, dtype]
    done = subprocess.run(
        [*command, str(source), str(target)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def _measure(what: str, dtype: str, source: str, target: str) -> Measured:
    work = {"convert": _convert, "library": _copy_with_library}[what]
    before = anonymous_bytes()
    peak, stop = [before], threading.Event()

    def sample() -> None:
        while not stop.wait(SAMPLE_S):
            peak[0] = max(peak[0], anonymous_bytes())

    thread = threading.Thread(target=sample)
    thread.start()
    begun = time.perf_counter()
    try:
        work(Path(source), Path(target), dtype)
        seconds = time.perf_counter() - begun
    finally:
        stop.set()
        thread.join()
    return Measured(
        what=what, dtype=dtype, anonymous_before=before, anonymous_peak=peak[0], seconds=seconds
    )


def _convert(source: Path, target: Path, dtype: str) -> None:
    convert(source=source, output=target, dtype=dtype)


def _copy_with_library(source: Path, target: Path, dtype: str) -> None:
    tensors = load_file(source)
    save_file({name: value.to(getattr(torch, dtype)) for name, value in tensors.items()}, target)


def anonymous_bytes() -> int:
    """Return this process's RssAnon."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise OSError("this system does not tell RssAnon")


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _markdown(result: Result) -> str:
    machine, largest = result.machine, max(result.shards)
    versions = ", ".join(f"{name} {value}" for name, value in machine["versions"].items())
    titles = {
        "convert": "`convert`, everything",
        "library": "the library's `load_file` and `save_file`, the largest shard",
    }
    rows = [
        [
            f"{titles[row.what]}, to {row.dtype}",
            f"{row.anonymous_before / 1e6:,.0f}",
            f"{row.anonymous_peak / 1e6:,.0f}",
            f"{row.anonymous_peak / largest:.3f}",
            f"{row.anonymous_peak / result.bound_bytes:.3f}",
            f"{row.seconds:.1f}",
        ]
        for row in result.measured
    ]
    header = ["what", "RssAnon before, MB", "peak, MB", "peak / shard", "peak / bound", "time, s"]
    lines = [
        "# What converting a released checkpoint takes",
        "",
        f"- Hardware: {machine['cpu']}, {machine['cores']} cores seen, one thread used, "
        f"{machine['memory_gib']} GiB, {machine['system']}",
        f"- Versions: {versions}",
        f"- Command: `python -m benchmarks.convert_memory --layers {result.layers}`",
        f"- Date: {machine['date']}",
        f"- Synthetic release: 8b shapes, {result.layers} LLM layers, float16, "
        f"{result.source_bytes / 1e9:.2f} GB in, {result.output_bytes / 1e9:.2f} GB out; "
        f"{len(result.shards)} shards, the largest {largest / 1e9:.2f} GB; "
        f"encoder {result.encoder_bytes / 1e9:.2f} GB (openai's `.pt`, which replaces the copy in "
        "the shards)",
        f"- Bound: {BOUND} x the largest shard + the encoder = {result.bound_bytes / 1e9:.2f} GB",
        f"- RssAnon of `/proc/self/status` every {SAMPLE_S * 1e3:.0f} ms, each row in a fresh "
        "process; the files had just been written, so part of them was in the page cache",
        "",
        *table(header, rows),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
