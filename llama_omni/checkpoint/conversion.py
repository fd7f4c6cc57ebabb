"""Convert the released layout into a native folder, a few megabytes at a time.

A native folder holds `config.json`, safetensors, the tokenizer, where they were given `vocoder/`
and `kmeans.npy`, and `provenance.json`, which says what it was made of.
"""

import json
import shutil
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
import torch

from llama_omni.checkpoint.native import empty_model, quiet_transformers
from llama_omni.checkpoint.output_folder import folder_at_once, refuse_output
from llama_omni.checkpoint.provenance import Meter, Progress, provenance
from llama_omni.checkpoint.released import RELEASED_TYPE, read_released
from llama_omni.checkpoint.safetensors_read import DTYPES
from llama_omni.checkpoint.safetensors_write import NewTensor, write_folder
from llama_omni.errors import CheckpointError
from llama_omni.model.config import OmniConfig
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


def convert_vocoder(
    *,
    vocoder: str | PathLike[str],
    output: str | PathLike[str],
    vocoder_config: str | PathLike[str] | None = None,
) -> Path:
    """Turn fairseq's unit vocoder alone into a folder, for a model that is trained here.

    Args:
        vocoder: fairseq's `g_*`.
        output: the folder to make; an existing one must be empty.
        vocoder_config: its `config.json`; None is the one beside it.

    Returns:
        The output folder.

    Raises:
        CheckpointError: names file and tensor, what was found and what was expected.
        OutputError: the output exists, cannot be written, or does not fit on the disk.
    """
    output = Path(output)
    refuse_output(output)
    voice, files = _read_vocoder(vocoder, vocoder_config)
    with folder_at_once(output, files[0].stat().st_size) as folder, quiet_transformers():
        voice.save_pretrained(folder)
    return output


def _read_vocoder(
    vocoder: str | PathLike[str], vocoder_config: str | PathLike[str] | None
) -> tuple[UnitVocoder, list[Path]]:
    files = [Path(vocoder), Path(vocoder_config or Path(vocoder).with_name("config.json"))]
    return UnitVocoder.from_fairseq(*files), files


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
            with quiet_transformers():
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
        voice, read = _read_vocoder(vocoder, vocoder_config)
        files += read
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
