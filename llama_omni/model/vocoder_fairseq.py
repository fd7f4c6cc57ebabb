"""Read fairseq's code HiFi-GAN (`g_*` and `config.json`) into the names of `UnitVocoder`.

Unusual: the file is a pickle, so it is read with `weights_only=True`; weight norm is folded, from
torch's old names (`weight_g`, `weight_v`) or its new ones (`parametrizations.weight.original0/1`).
"""

import json
import math
import pickle
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from llama_omni.errors import CheckpointError, ConfigError
from llama_omni.model.vocoder_config import VocoderConfig

_FIELDS = {  # theirs -> ours
    "sampling_rate": "sample_rate",
    "num_embeddings": "num_units",
    "embedding_dim": "embedding_dim",
    "upsample_initial_channel": "initial_channels",
    "upsample_rates": "upsample_rates",
    "upsample_kernel_sizes": "upsample_kernel_sizes",
    "resblock_kernel_sizes": "resblock_kernel_sizes",
    "resblock_dilation_sizes": "resblock_dilations",
    "dur_predictor_params.var_pred_hidden_dim": "duration_hidden_dim",
    "dur_predictor_params.var_pred_dropout": "duration_dropout",
}
# What says how the vocoder was trained, not what it is.
_TRAINING_KEYS = frozenset(
    "num_gpus batch_size learning_rate adam_b1 adam_b2 lr_decay seed segment_size num_mels "
    "num_freq n_fft hop_size win_size fmin fmax fmax_for_loss num_workers dist_config "
    "dur_prediction_weight".split()
)
_PREFIXES = {  # ours -> theirs; every other tensor of ours is `generator.` + theirs
    "embedding.": "dict.",
    "duration_predictor.conv1.": "dur_predictor.conv1.0.",
    "duration_predictor.conv2.": "dur_predictor.conv2.0.",
    "duration_predictor.norm1.": "dur_predictor.ln1.",
    "duration_predictor.norm2.": "dur_predictor.ln2.",
    "duration_predictor.proj.": "dur_predictor.proj.",
    "generator.": "",
}


def read_config(path: str | PathLike[str]) -> VocoderConfig:
    """Return the configuration that fairseq's `config.json` describes.

    Raises:
        CheckpointError: the file cannot be read.
        ConfigError: a field is missing, or asks for what `UnitVocoder` does not do.
    """
    try:
        given = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} must be a readable JSON file, got: {error}") from error
    if not isinstance(given, dict):
        raise CheckpointError(f"{path} must hold a JSON object, got {type(given).__name__}")
    durations = given.pop("dur_predictor_params", None)
    if not isinstance(durations, dict):
        raise ConfigError(f"dur_predictor_params in {path} must be an object, got {durations!r}")
    given |= {f"dur_predictor_params.{key}": value for key, value in durations.items()}
    for key in _FIELDS:
        if key not in given:
            raise ConfigError(f"{path} must hold {key}, got none")
    config = VocoderConfig(**{ours: given.pop(theirs) for theirs, ours in _FIELDS.items()})
    fixed = {
        "resblock": "1",
        "model_in_dim": config.embedding_dim,
        "code_hop_size": math.prod(config.upsample_rates),
        "dur_predictor_params.encoder_embed_dim": config.embedding_dim,
        "dur_predictor_params.var_pred_kernel_size": 3,
    }
    for key, value in given.items():
        if key in fixed:
            if str(value) != str(fixed[key]):
                raise ConfigError(f"{key} in {path} must be {fixed[key]}, got {value!r}")
        elif value and key not in _TRAINING_KEYS:
            raise ConfigError(f"{key} in {path} must be off (not supported), got {value!r}")
    return config


def read_weights(path: str | PathLike[str], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return fairseq's tensors under our names, in float32, weight norm folded.

    Args:
        path: the `g_*` file.
        expected: the tensors that there must be, by our names; only their shapes are looked at.

    Raises:
        CheckpointError: the file cannot be read, or a tensor is missing, extra or misshapen.
    """
    given = _fold(_load(path), path)
    weights = {}
    for name, like in expected.items():
        theirs = _their_name(name)
        if theirs not in given:
            raise CheckpointError(f"{path} must hold the tensor {theirs}, got none")
        weights[name] = given.pop(theirs)
        if weights[name].shape != like.shape:
            raise _misshapen(path, theirs, like.shape, weights[name])
    if given:
        raise CheckpointError(f"{path} must hold no other tensors, got {', '.join(sorted(given))}")
    return weights


def _load(path: str | PathLike[str]) -> dict[str, Tensor]:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path} must be a readable checkpoint, got: {reason}") from error
    tensors = loaded.get("generator") if isinstance(loaded, dict) else None
    if not isinstance(tensors, dict):
        raise CheckpointError(f"{path} must hold the tensors under 'generator', got none")
    return {
        name.replace(".parametrizations.weight.original0", ".weight_g").replace(
            ".parametrizations.weight.original1", ".weight_v"
        ): tensor.float()
        for name, tensor in tensors.items()
    }


def _fold(tensors: dict[str, Tensor], path: str | PathLike[str]) -> dict[str, Tensor]:
    """Put g * v / |v| where there are g and v; the norm is over all dimensions but the first."""
    stems = {name[:-2] for name in tensors if name.endswith((".weight_g", ".weight_v"))}
    for stem in sorted(stems):
        for name in (f"{stem}_g", f"{stem}_v"):
            if name not in tensors:
                raise CheckpointError(f"{path} must hold the tensor {name}, got none")
        magnitude, direction = tensors.pop(f"{stem}_g"), tensors.pop(f"{stem}_v")
        shape = (len(direction), *[1] * (direction.dim() - 1))
        if magnitude.shape != shape:
            raise _misshapen(path, f"{stem}_g", shape, magnitude)
        tensors[stem] = direction * (magnitude / direction.flatten(1).norm(dim=1).view(shape))
    return tensors


def _their_name(name: str) -> str:
    ours = next(prefix for prefix in _PREFIXES if name.startswith(prefix))
    return _PREFIXES[ours] + name.removeprefix(ours)


def _misshapen(
    path: str | PathLike[str], name: str, shape: tuple[int, ...], got: Tensor
) -> CheckpointError:
    return CheckpointError(
        f"the tensor {name} in {path} must have shape {tuple(shape)}, got {tuple(got.shape)}"
    )
