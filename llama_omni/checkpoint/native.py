"""Native folders: load one, or build the same model with random weights.

Unusual: Transformers fills what a file lacks with random numbers and a warning; here that is an
error that names file and tensor.
"""

import copy
import importlib.util
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import PretrainedConfig
from transformers.utils import logging as transformers_logging

from llama_omni.checkpoint.released import RELEASED_TYPE
from llama_omni.checkpoint.safetensors_read import StoredTensor, read_config, read_folder
from llama_omni.errors import CheckpointError, ConfigError
from llama_omni.model.config import OmniConfig
from llama_omni.model.omni import OmniModel
from llama_omni.model.vocoder import UnitVocoder, VocoderConfig


def load_model(
    folder: str | PathLike[str],
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> OmniModel:
    """Load a native folder: what `convert` or `OmniModel.save_pretrained` wrote.

    Args:
        folder: with `config.json` and safetensors.
        device: where the weights go; straight there where accelerate is installed.
        dtype: of the weights in memory; None is what the folder's configuration says.

    Raises:
        CheckpointError: a file is missing or damaged, or a tensor is missing, extra or misshapen.
        ConfigError: the configuration cannot work.
    """
    folder = Path(folder)
    return _load(OmniModel, folder, _native_config(folder), torch.device(device), dtype)


def load_vocoder(
    folder: str | PathLike[str],
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> UnitVocoder:
    """Load a vocoder's folder; arguments and errors are those of `load_model`."""
    folder = Path(folder)
    values = read_config(folder)
    return _load(UnitVocoder, folder, VocoderConfig(**values), torch.device(device), dtype)


def _load(
    kind: Any,
    folder: Path,
    config: PretrainedConfig,
    device: torch.device,
    dtype: torch.dtype | None,
) -> Any:
    stored = read_folder(folder)  # refuses missing and truncated files by name
    direct = importlib.util.find_spec("accelerate") is not None
    with quiet_transformers():
        loaded: Any = kind.from_pretrained(
            folder,
            config=config,
            dtype="auto" if dtype is None else dtype,
            device_map=device if direct else None,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they come in the info, and are refused below
            use_safetensors=True,
            local_files_only=True,
        )
    model, info = loaded
    if info["missing_keys"]:
        raise CheckpointError(
            f"{folder} must hold tensor {_several(info['missing_keys'])}, got none"
        )
    if info["unexpected_keys"]:
        path = _file_of(min(info["unexpected_keys"]), stored, folder)
        raise CheckpointError(
            f"{path} must hold no tensor that the model has no use for, "
            f"got {_several(info['unexpected_keys'])}"
        )
    if info["mismatched_keys"]:
        name, found, expected = min(info["mismatched_keys"])
        path = _file_of(name, stored, folder)
        raise CheckpointError(
            f"tensor {name} in {path} must have shape {tuple(expected)}, got {tuple(found)}"
        )
    return model.to(device).eval()


def _native_config(folder: Path) -> OmniConfig:
    path = folder / "config.json"
    if not folder.is_dir():
        raise CheckpointError(f"{folder} must be a folder with a model, got no such folder")
    values = read_config(folder)
    kind = values.get("model_type")
    if kind == RELEASED_TYPE:
        raise CheckpointError(
            f"{folder} holds the released layout; convert it once with: "
            f"llama-omni convert {folder} -o NEW_FOLDER"
        )
    if kind != OmniConfig.model_type:
        raise CheckpointError(
            f"model_type in {path} must be {OmniConfig.model_type!r}, got {kind!r}"
        )
    try:
        return OmniConfig.from_pretrained(folder)
    except ConfigError:
        raise
    except (StrictDataclassError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} must describe a model, got: {reason}") from error


def _file_of(name: str, stored: Mapping[str, StoredTensor], folder: Path) -> Path:
    """Return the file that holds a tensor; Transformers renames some, then it is the folder."""
    return stored[name].path if name in stored else folder


def _several(names: Collection[str]) -> str:
    return min(names) + (f" and {len(names) - 1} more" if len(names) > 1 else "")


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep Transformers' progress bar and load report away: what matters is raised."""
    verbosity = transformers_logging.get_verbosity()
    bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bar:
            transformers_logging.enable_progress_bar()


def random_model(
    config: OmniConfig,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    llm: Any = None,
) -> OmniModel:
    """Build a model with random weights, directly on its device and in its dtype.

    The caller's random state stays as it was.

    Args:
        config: Of the model.
        device: Where it is built.
        dtype: Of the random weights.
        seed: Of them.
        llm: A language model of `config.llm` to have in it, as it is; None: a random one.
    """
    device = torch.device(device)
    model = empty_model(config, dtype=dtype)
    if llm is not None:
        model.llm = nn.Identity()  # weights for it would be made in vain: most of the model
    model.to_empty(device=device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        model.initialize_weights()  # buffers that are not in any file, too
    if llm is not None:
        model.llm = llm
    model.tie_weights()
    return model.eval()


def empty_model(config: OmniConfig, *, dtype: torch.dtype = torch.float32) -> OmniModel:
    """Build a model without weights (on the meta device): names, shapes and dtypes only."""
    config = copy.deepcopy(config)
    config.dtype = config.encoder.dtype = config.llm.dtype = dtype
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            return OmniModel(config)
    finally:
        torch.set_default_dtype(before)
