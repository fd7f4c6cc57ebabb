"""Weights in files: convert the released layout, load a native folder, build random weights.

A native folder holds `config.json`, safetensors, the tokenizer, where they were given `vocoder/`
and `kmeans.npy`, and `provenance.json`, which says what it was made of. Unusual: Transformers fills
what a file lacks with random numbers and a warning; here that is an error that names file and
tensor.
"""

import copy
import importlib.util
import json
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers.models.whisper.modeling_whisper import sinusoids
from transformers.utils import logging as transformers_logging

from llama_omni.errors import CheckpointError, ConfigError
from llama_omni.model.config import OmniConfig
from llama_omni.model.omni import OmniModel
from llama_omni.model.output_folder import folder_at_once, refuse_output
from llama_omni.model.provenance import Meter, Progress, provenance
from llama_omni.model.released import RELEASED_TYPE, read_released
from llama_omni.model.safetensors_read import DTYPES, StoredTensor, read_folder, read_json
from llama_omni.model.safetensors_write import NewTensor, write_folder
from llama_omni.model.units import read_centroids
from llama_omni.model.vocoder import UnitVocoder

_TOKENIZERS = ("tokenizer.json", "tokenizer.model")  # one of them must be there
_COPIED = (
    *_TOKENIZERS, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "chat_template.jinja", "generation_config.json",
)  # fmt: skip


def convert(
    *,
    source: str | PathLike[str],
    output: str | PathLike[str],
    speech_encoder: str | PathLike[str] | None = None,
    vocoder: str | PathLike[str] | None = None,
    vocoder_config: str | PathLike[str] | None = None,
    kmeans: str | PathLike[str] | None = None,
    trust_pickle: bool = False,
    dtype: torch.dtype | str | None = None,
    encoder_heads: int | None = None,
    max_shard_bytes: int = 5 * 10**9,
    progress: Progress | None = None,
) -> Path:
    """Turn a released checkpoint into a native folder, a few megabytes at a time.

    All is checked before the first tensor is written; the output appears whole or not at all.

    Args:
        source: folder in the released layout (`model.speech_projector.*`, `speech_generator.*`).
        output: the folder to make; an existing one must be empty.
        speech_encoder: a Whisper, as openai's `.pt` or a Hugging Face folder. None is the file that
            the source's `config.json` names, relative to the source, if it is there (the release
            does the same), then the copy in the source's shards.
        vocoder: fairseq's `g_*`.
        vocoder_config: its `config.json`; None is the one beside it.
        kmeans: centres of the units, see `units.read_centroids`.
        trust_pickle: open a pickled `kmeans`, which can run any program on this machine.
        dtype: of the weights written; None or "auto" is what the source's `config.json` says.
        encoder_heads: where only the shards hold the encoder, which do not tell; None is one for
            every 64 of its width, as in every released Whisper.
        max_shard_bytes: of one safetensors file.
        progress: told after each piece how many bytes of how many are done, and in which file.

    Returns:
        The output folder.

    Raises:
        CheckpointError: names file and tensor, what was found and what was expected.
        OutputError: the output exists, cannot be written, or does not fit on the disk.
    """
    source, output = Path(source), Path(output)
    refuse_output(output)
    if not source.is_dir():
        raise CheckpointError(f"{source} must be a folder in the released layout, got no folder")
    released = read_released(
        source,
        speech_encoder=None if speech_encoder is None else Path(speech_encoder),
        encoder_heads=encoder_heads,
        expected=lambda config: empty_model(config).state_dict(),
    )
    target = _stored_dtype(dtype, released.dtype)
    config = released.config
    config.dtype = config.llm.dtype = config.encoder.dtype = target
    extras = _read_extras(config, vocoder, vocoder_config, kmeans, trust_pickle)
    copied = [source / name for name in _COPIED if (source / name).is_file()]
    if not any(path.name in _TOKENIZERS for path in copied):
        raise CheckpointError(f"{source} must hold {' or '.join(_TOKENIZERS)}, got neither")
    tensors = [
        NewTensor(name=name, source=tensor, dtype=target)
        for name, tensor in released.tensors.items()
    ]
    inputs = [*released.files, *copied, *extras.files]
    num_bytes = sum(tensor.num_bytes for tensor in tensors)
    meter = Meter(sum(path.stat().st_size for path in inputs) + num_bytes, progress)
    with folder_at_once(output, num_bytes) as folder:
        write_folder(folder, tensors, max_shard_bytes=max_shard_bytes, progress=meter.add)
        config.save_pretrained(folder)
        for path in copied:
            shutil.copyfile(path, folder / path.name)
        extras.save(folder)
        facts = provenance(
            inputs,
            meter,
            source=source.resolve().name,
            source_layout=RELEASED_TYPE,
            speech_encoder=released.encoder_origin,
            dtype=str(target).removeprefix("torch."),
        )
        text = json.dumps(facts, indent=2) + "\n"
        (folder / "provenance.json").write_text(text, encoding="utf-8")
    return output


def _stored_dtype(dtype: torch.dtype | str | None, released: torch.dtype) -> torch.dtype:
    if dtype is None or dtype == "auto":
        return released
    for known in DTYPES.values():
        if dtype in (known, str(known).removeprefix("torch.")):
            return known
    raise CheckpointError(f"dtype must be auto, float32, float16 or bfloat16, got {dtype}")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Extras:
    vocoder: UnitVocoder | None
    centroids: np.ndarray | None
    files: list[Path]

    def save(self, folder: Path) -> None:
        if self.vocoder is not None:
            with _quiet_transformers():
                self.vocoder.save_pretrained(folder / "vocoder")
        if self.centroids is not None:
            np.save(folder / "kmeans.npy", self.centroids)


def _read_extras(
    config: OmniConfig,
    vocoder: str | PathLike[str] | None,
    vocoder_config: str | PathLike[str] | None,
    kmeans: str | PathLike[str] | None,
    trust_pickle: bool,
) -> _Extras:
    num_units = config.speech_decoder.num_units
    files: list[Path] = []
    voice = centroids = None
    if vocoder is None and vocoder_config is not None:
        raise CheckpointError(f"{vocoder_config} must come with the vocoder it is for, got none")
    if vocoder is not None:
        beside = Path(vocoder).with_name("config.json")
        files += [Path(vocoder), Path(vocoder_config or beside)]
        voice = UnitVocoder.from_fairseq(*files)
        if voice.num_units != num_units:
            raise CheckpointError(
                f"{vocoder} must speak the model's {num_units} units, got {voice.num_units}"
            )
    if kmeans is not None:
        files.append(Path(kmeans))
        centroids = read_centroids(kmeans, trust_pickle=trust_pickle)
        if len(centroids) != num_units:
            raise CheckpointError(
                f"{kmeans} must hold a centre for each of the model's {num_units} units, "
                f"got {len(centroids)}"
            )
    return _Extras(vocoder=voice, centroids=centroids, files=files)


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
    config = _native_config(folder)
    stored = read_folder(folder)  # refuses missing and truncated files by name
    direct = importlib.util.find_spec("accelerate") is not None
    with _quiet_transformers():
        loaded: Any = OmniModel.from_pretrained(
            folder,
            config=config,
            dtype="auto" if dtype is None else dtype,
            device_map=torch.device(device) if direct else None,
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
    values = read_json(path)
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
def _quiet_transformers() -> Iterator[None]:
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
) -> OmniModel:
    """Build a model with random weights, directly on its device and in its dtype.

    The encoder's positions are Whisper's sinusoids, as in every Whisper. The caller's random state
    stays as it was.
    """
    device = torch.device(device)
    model = empty_model(config, dtype=dtype).to_empty(device=device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        model.initialize_weights()  # buffers that are not in any file, too
    model.tie_weights()
    positions = model.encoder.embed_positions.weight
    with torch.no_grad():
        # Transformers skips this for encoders defined outside its own package.
        positions.copy_(sinusoids(*positions.shape))
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
