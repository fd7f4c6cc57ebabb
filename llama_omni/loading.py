"""`load`: an assistant from a model folder, a hub id, or a named size with random weights."""

import os
from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from llama_omni.assistant import LlamaOmniAssistant
from llama_omni.checkpoint.native import (
    load_model,
    load_vocoder,
    quiet_transformers,
    random_model,
)
from llama_omni.engine.batch import BatchEngine
from llama_omni.engine.settings import EngineSettings
from llama_omni.errors import ConfigError
from llama_omni.model.device import find_device
from llama_omni.model.omni import OmniModel
from llama_omni.model.presets import preset as model_preset
from llama_omni.model.tokenizer import TextTokenizer, load_tokenizer, random_tokenizer
from llama_omni.model.vocoder import UnitVocoder, vocoder_preset

EMBEDDED = Path(__file__).parent / "assets" / "tiny"
TORCHS_THREADS = torch.get_num_threads()  # before anything here has changed it
SMALL_MODEL = 100_000_000  # parameters
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load(
    model: str | PathLike[str] | None = None,
    *,
    preset: str | None = None,
    random_weights: bool = False,
    device: str = "auto",
    dtype: str = "auto",
    seed: int = 0,
    system: str | None = None,
    threads: int | None = None,
) -> LlamaOmniAssistant:
    """Load an assistant.

    Args:
        model: a native folder (see `llama-omni convert`) or a hub id; None is the embedded model.
        preset: a named size, for trying one without weights; needs `random_weights`.
        random_weights: fill the preset with random weights: noise, at the real cost.
        device: "auto" (CUDA if there is one), "cpu", "cuda", "cuda:1", ...
        dtype: "auto" (bfloat16 on CUDA, float32 elsewhere), "float32", "bfloat16", "float16".
        seed: of random weights.
        system: system prompt; None is the prompt template's own.
        threads: CPU threads of this process's torch; None is one for a model under 100 million
            parameters on a CPU, and torch's own choice otherwise.

    Raises:
        ConfigError: an unknown preset, device or dtype, or options that exclude each other.
        CheckpointError: weights are missing, damaged, or do not fit.
    """
    cores = os.cpu_count() or 1
    if threads is not None and not 1 <= threads <= cores:
        raise ConfigError(f"threads must be 1 to {cores}, the cores of this machine, got {threads}")
    place = find_device(device, field="device")
    kind = _dtype(dtype, place)
    if preset is not None or random_weights:
        if model is not None:
            raise ConfigError("give either a model or a preset with random weights, got both")
        config = model_preset(preset or "tiny")
        if not random_weights:
            raise ConfigError(
                f"preset {preset!r} has no weights of its own; add random_weights "
                "(--random-weights), or give a model folder"
            )
        omni = random_model(config, device=place, dtype=kind, seed=seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            vocoder = UnitVocoder(vocoder_preset(preset or "tiny"))
        return _ready(omni, random_tokenizer(config), vocoder, system, threads)
    folder = _folder(model)
    omni = load_model(folder, device=place, dtype=kind)
    if not (folder / "vocoder").is_dir():
        raise ConfigError(
            f"{folder} must hold a vocoder folder, found none; convert with --vocoder"
        )
    vocoder = load_vocoder(folder / "vocoder", device=place, dtype=kind)
    with quiet_transformers():  # its remark on the folder's model type concerns no one
        tokenizer = load_tokenizer(folder)
    return _ready(omni, tokenizer, vocoder, system, threads)


def load_engine(
    model: str | PathLike[str] | None = None,
    *,
    settings: EngineSettings | None = None,
    bounds: Mapping[str, Any] | None = None,
    **how: Any,
) -> BatchEngine:
    """Load an engine for many conversations at once.

    Args:
        model: see `load`.
        settings: its bounds; None: on CUDA 16 rows cost no more than one, elsewhere each costs.
        bounds: fields of the settings that differ from those.
        how: further arguments of `load`.
    """
    return engine_of(load(model, **how), settings, bounds)


def engine_of(
    assistant: LlamaOmniAssistant,
    settings: EngineSettings | None = None,
    bounds: Mapping[str, Any] | None = None,
) -> BatchEngine:
    """Make an engine of an assistant's model; see `load_engine`."""
    on_cuda = assistant.model.device.type == "cuda"
    settings = settings or EngineSettings(cheap_rows=16 if on_cuda else 1)
    if bounds:
        rows = bounds.get("max_rows", settings.max_rows)
        settings = replace(settings, **{"cheap_rows": min(settings.cheap_rows, rows), **bounds})
    engine = BatchEngine(
        assistant.stepper,
        assistant.tokenizer,
        assistant.vocoder,
        settings=settings,
        system=assistant.system,
    )
    if on_cuda:
        rows = settings.max_rows
        while rows > 1:  # the largest first, so that storage moves once
            assistant.stepper.warm_up(
                tokens=min(256, assistant.model.config.max_positions), rows=rows
            )
            rows //= 2
    return engine


def _ready(
    omni: OmniModel,
    tokenizer: TextTokenizer,
    vocoder: UnitVocoder,
    system: str | None,
    threads: int | None,
) -> LlamaOmniAssistant:
    if threads is None:
        small = omni.device.type == "cpu" and omni.num_parameters() < SMALL_MODEL
        # More are slower than one for so small a model, by far on a busy machine.
        threads = 1 if small else TORCHS_THREADS
    torch.set_num_threads(threads)
    vocoder.to(omni.device, omni.dtype)  # pyright: ignore[reportArgumentType, reportCallIssue]
    assistant = LlamaOmniAssistant(omni, tokenizer, vocoder, system=system)
    assistant.warm_up()
    return assistant


def _folder(model: str | PathLike[str] | None) -> Path:
    if model is None:
        if not EMBEDDED.is_dir():
            raise ConfigError(
                f"{EMBEDDED} must hold the embedded model, found nothing: install the package "
                "whole, or give a model folder"
            )
        return EMBEDDED
    if not str(model):
        raise ConfigError("model must be a folder or a hub id (owner/name), got an empty name")
    if Path(model).exists():
        return Path(model)
    if str(model).count("/") != 1 or str(model).startswith((".", "/", "~")):
        raise ConfigError(f"model must be a folder or a hub id (owner/name), got {str(model)!r}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(model)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"model {str(model)!r} is no folder, nor to be had: {reason}") from error


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in DTYPES:
        raise ConfigError(f"dtype must be one of auto, {', '.join(DTYPES)}, got {name!r}")
    return DTYPES[name]
