"""The engine that is driven directly, in a process of its own, as the server has it."""

import os
from typing import Any

import torch

from llama_omni.bench.subject import SYSTEM
from llama_omni.engine.batch import BatchEngine
from llama_omni.engine.settings import EngineSettings
from llama_omni.loading import engine_of, load
from llama_omni.model.presets import preset as model_preset
from llama_omni.remote.factory import Factory


def factory(
    *,
    preset: str | None,
    model: str | os.PathLike[str] | None,
    device: str,
    dtype: str,
    threads: int | None,
) -> Factory:
    """Return what makes an engine, over there.

    Args:
        preset: a size with random weights.
        model: a folder or hub id, where there is no preset; None is the embedded model.
        device: as in `llama_omni.load`.
        dtype: as in `llama_omni.load`.
        threads: as in `llama_omni.load`.

    Raises:
        ConfigError: there is no such preset.
    """
    how: dict[str, Any] = {"device": device, "dtype": dtype, "threads": threads}
    if preset is None:
        return Factory(f"{__name__}:make_engine", {**how, "model": model})
    model_preset(preset)
    return Factory(
        f"{__name__}:make_engine",
        {**how, "preset": preset, "random_weights": True, "system": SYSTEM},
    )


def make_engine(*, settings: EngineSettings | None = None, **how: Any) -> BatchEngine:
    """Make an engine; one of random weights knows no stop tokens, so replies have full length."""
    assistant = load(**how)
    if how.get("random_weights"):
        assistant.model.config.llm.eos_token_id = None
    return engine_of(assistant, settings)


def placed(device: str, dtype: str) -> tuple[torch.device, torch.dtype]:
    """Return where `llama_omni.load` puts a model, and in which numbers."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype == "auto":
        dtype = "bfloat16" if device.startswith("cuda") else "float32"
    return torch.device(device), getattr(torch, dtype)
