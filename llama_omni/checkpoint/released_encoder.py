"""The Whisper encoder of a released checkpoint: from openai's `.pt`, Hugging Face, or the shards.

Only the encoder is read; a Whisper's decoder stays in its file.
"""

import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import WhisperConfig

from llama_omni.checkpoint.safetensors_read import (
    DTYPES,
    PIECE_BYTES,
    Source,
    read_config,
    read_folder,
)
from llama_omni.errors import CheckpointError

_LAYER_PARTS = {  # ours (Hugging Face's) -> openai's
    "self_attn.q_proj": "attn.query",
    "self_attn.k_proj": "attn.key",
    "self_attn.v_proj": "attn.value",
    "self_attn.out_proj": "attn.out",
    "self_attn_layer_norm": "attn_ln",
    "fc1": "mlp.0",
    "fc2": "mlp.2",
    "final_layer_norm": "mlp_ln",
}
_DIMS = {  # openai's -> Hugging Face's
    "n_mels": "num_mel_bins",
    "n_audio_ctx": "max_source_positions",
    "n_audio_state": "d_model",
    "n_audio_head": "encoder_attention_heads",
    "n_audio_layer": "encoder_layers",
}
_HEAD_WIDTH = 64  # of every Whisper that openai released


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleasedEncoder:
    """Where an encoder's weights are, and what they are called there."""

    config: WhisperConfig
    tensors: Mapping[str, Source]  # by their names; all of them belong to the encoder
    their_name: Callable[[str], str]  # from a name in `SpeechEncoder`
    origin: str  # for provenance
    path: Path  # the file or folder, for messages


def openai_name(name: str) -> str:
    """Return openai's name of one of `SpeechEncoder`'s tensors."""
    layer = re.fullmatch(r"layers\.(\d+)\.(.+)\.(weight|bias)", name)
    if layer:
        return f"blocks.{layer[1]}.{_LAYER_PARTS[layer[2]]}.{layer[3]}"
    if name == "embed_positions.weight":
        return "positional_embedding"
    return name.replace("layer_norm.", "ln_post.")


def read_encoder(path: Path) -> ReleasedEncoder:
    """Read a Whisper: openai's `.pt`, or a Hugging Face folder with safetensors.

    Raises:
        CheckpointError: it is missing, damaged, or no Whisper.
    """
    return _from_folder(path) if path.is_dir() else _from_openai(path)


def encoder_in_shards(
    folder: Path, stored: Mapping[str, Source], prefix: str, heads: int | None
) -> ReleasedEncoder:
    """Use the copy in the released shards, whose sizes are those of its tensors.

    Args:
        folder: of the shards.
        stored: everything in them.
        prefix: of the encoder's names.
        heads: attention heads, which no tensor tells; None is what every released Whisper has.

    Raises:
        CheckpointError: a tensor that tells a size is missing, or the number of heads is unknown.
    """
    tensors = {name: source for name, source in stored.items() if name.startswith(prefix)}

    def shape(name: str, dimensions: int) -> tuple[int, ...]:
        source = tensors.get(prefix + name)
        if source is None or len(source.shape) != dimensions:
            got = "none" if source is None else f"shape {source.shape}"
            raise CheckpointError(
                f"{folder} must hold tensor {prefix + name} with {dimensions} dimensions, got {got}"
            )
        return source.shape

    positions, width = shape("positional_embedding", 2)
    _, mels, _ = shape("conv1.weight", 3)
    hidden, _ = shape("blocks.0.mlp.0.weight", 2)
    blocks = {int(match[1]) for name in tensors if (match := re.search(r"blocks\.(\d+)\.", name))}
    if heads is None and width % _HEAD_WIDTH:
        raise CheckpointError(
            f"the encoder in {folder} must be a multiple of {_HEAD_WIDTH} wide, as every released "
            f"Whisper, got {width}; give the Whisper itself as speech encoder"
        )
    return ReleasedEncoder(
        config=_config(
            {
                "num_mel_bins": mels,
                "max_source_positions": positions,
                "d_model": width,
                "encoder_attention_heads": heads or width // _HEAD_WIDTH,
                "encoder_layers": max(blocks) + 1,
                "encoder_ffn_dim": hidden,
            },
            folder,
        ),
        tensors=tensors,
        their_name=lambda name: prefix + openai_name(name),
        origin="the copy in the shards",
        path=folder,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Loaded:
    """A tensor of a `.pt` file, mapped into memory rather than read; a `Source`."""

    path: Path
    name: str
    tensor: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.tensor.dtype

    def pieces(self) -> Iterator[Tensor]:
        yield from self.tensor.reshape(-1).split(PIECE_BYTES // self.tensor.itemsize)


def _from_openai(path: Path) -> ReleasedEncoder:
    try:
        mapped = zipfile.is_zipfile(path)  # torch's old format cannot be mapped into memory
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{path} must be a whole .pt file that loads without running code, got: {reason}"
        ) from error
    parts = loaded if isinstance(loaded, dict) else {}
    dims, weights = parts.get("dims"), parts.get("model_state_dict")
    if not isinstance(dims, dict) or not isinstance(weights, dict):
        raise CheckpointError(f"{path} must hold Whisper's dims and model_state_dict, got neither")
    for key in _DIMS:
        if not isinstance(dims.get(key), int):
            raise CheckpointError(f"dims in {path} must hold {key}, got {dims.get(key)!r}")
    tensors: dict[str, Source] = {}
    for name, tensor in weights.items():
        if name.startswith("encoder."):
            if tensor.dtype not in DTYPES.values():
                raise CheckpointError(
                    f"tensor {name} in {path} must be {', '.join(DTYPES)}, got {tensor.dtype}"
                )
            tensors[name] = _Loaded(path=path, name=name, tensor=tensor)
    sizes = {ours: dims[theirs] for theirs, ours in _DIMS.items()}
    return ReleasedEncoder(
        config=_config(sizes | {"encoder_ffn_dim": 4 * sizes["d_model"]}, path),
        tensors=tensors,
        their_name=lambda name: "encoder." + openai_name(name),
        origin=path.name,
        path=path,
    )


def _from_folder(folder: Path) -> ReleasedEncoder:
    values = read_config(folder)
    if values.get("model_type") != "whisper":
        raise CheckpointError(
            f"model_type in {folder / 'config.json'} must be 'whisper', "
            f"got {values.get('model_type')!r}"
        )
    keys = (*_DIMS.values(), "encoder_ffn_dim", "activation_function", "scale_embedding")
    stored = read_folder(folder)
    prefix = next((p for p in ("model.encoder.", "encoder.") if f"{p}conv1.weight" in stored), "")
    return ReleasedEncoder(
        config=_config({key: values[key] for key in keys if key in values}, folder),
        tensors={name: source for name, source in stored.items() if name.startswith(prefix)},
        their_name=lambda name: prefix + name,
        origin=folder.name,
        path=folder,
    )


def _config(values: dict[str, Any], path: Path) -> WhisperConfig:
    width, heads = values.get("d_model"), values.get("encoder_attention_heads")
    if not isinstance(width, int) or not isinstance(heads, int) or not heads or width % heads:
        raise CheckpointError(
            f"the encoder of {path} must be a multiple of its heads wide, got {width} for {heads}"
        )
    settings: dict[str, Any] = {"activation_function": "gelu"} | values
    return WhisperConfig(**settings)
