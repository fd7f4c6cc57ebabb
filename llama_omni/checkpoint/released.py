"""The released layout (`omni_speech2s_llama`): its configuration and names, turned into ours."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import LlamaConfig, WhisperConfig

from llama_omni.checkpoint.released_encoder import ReleasedEncoder, encoder_in_shards, read_encoder
from llama_omni.checkpoint.safetensors_read import DTYPES, Source, read_folder, read_json
from llama_omni.errors import CheckpointError, ConfigError
from llama_omni.model.config import AdapterConfig, OmniConfig, SpeechDecoderConfig

RELEASED_TYPE = "omni_speech2s_llama"

_PREFIXES = {  # ours -> theirs; the encoder has several sources, see `released_encoder`
    "llm.model.": "model.",
    "llm.lm_head.": "lm_head.",
    "adapter.": "model.speech_projector.",
    "speech_decoder.": "speech_generator.",
}
_ENCODER = "model.speech_encoder."
_HEAD = "lm_head.weight"
_EMBEDDING = "model.embed_tokens.weight"
_KINDS = {  # the only kinds there are; what the released code assumes where a key is absent
    "speech_encoder_type": "whisper",
    "speech_projector_type": "linear",
    "speech_generator_type": "ctc",
    "speech_normalize": False,
}
_LLM_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
              "vocab_size")  # fmt: skip
_OMNI_SIZES = ("speech_encoder_ds_rate", "ctc_upsample_factor", "unit_vocab_size")
# Everything else in the file is Llama's.
_NOT_LLAMA = re.compile(
    "_.*|speech_.*|ctc_.*|tune_.*|freeze_.*|tokenizer_.*|unit_vocab_size|max_sequence_length|"
    "architectures|model_type|torch_dtype|dtype|transformers_version"
)
_ROPE_TYPES = ("default", "linear", "llama3")  # the same at every length
_ADAPTER_WIDTH = 2048  # hard coded in the release


@dataclass(frozen=True, kw_only=True, slots=True)
class Released:
    """A released checkpoint: our configuration, and where each of our tensors is."""

    config: OmniConfig
    dtype: torch.dtype  # what its configuration says
    tensors: dict[str, Source]  # by our names
    encoder_origin: str  # for provenance
    files: list[Path]  # everything read, for provenance


def read_released(
    folder: Path,
    *,
    speech_encoder: Path | None,
    encoder_heads: int | None,
    expected: Callable[[OmniConfig], Mapping[str, Tensor]],
) -> Released:
    """Read headers and configuration of a released checkpoint, and match every tensor.

    Args:
        folder: of the release.
        speech_encoder: a Whisper to use; None is the file that the configuration names if it is
            there (that is what the release does: it replaces the shards' copy), then the shards'.
        encoder_heads: see `encoder_in_shards`.
        expected: gives the tensors that a model of a configuration has; only shapes are looked at.

    Raises:
        CheckpointError: names the file and the tensor or key, what was found and what should be.
    """
    path = folder / "config.json"
    values = read_json(path)
    if values.get("model_type") != RELEASED_TYPE:
        raise CheckpointError(
            f"{folder} must hold a released Omni model (model_type {RELEASED_TYPE!r}), "
            f"got {values.get('model_type')!r} in its config.json"
        )
    stored: dict[str, Source] = dict(read_folder(folder))
    encoder = _choose_encoder(folder, values, stored, speech_encoder, encoder_heads)
    config = _omni_config(path, values, encoder.config)
    dtype = _dtype(path, values, stored)
    config.dtype = config.llm.dtype = config.encoder.dtype = dtype
    wanted = expected(config)
    rest = {name: source for name, source in stored.items() if not name.startswith(_ENCODER)}
    if config.llm.tie_word_embeddings:
        _drop_tied_head(rest)
        wanted = {name: like for name, like in wanted.items() if name != f"llm.{_HEAD}"}
    heard = {name.removeprefix("encoder."): like for name, like in wanted.items()
             if name.startswith("encoder.")}  # fmt: skip
    other = {name: like for name, like in wanted.items() if not name.startswith("encoder.")}
    tensors = _match(other, rest, released_name, folder)
    encoder_tensors = _match(heard, encoder.tensors, encoder.their_name, encoder.path)
    tensors |= {f"encoder.{name}": source for name, source in encoder_tensors.items()}
    origin = encoder.origin
    if encoder.path != folder and any(name.startswith(_ENCODER) for name in stored):
        origin += ", in place of the copy in the shards"
    files = {source.path for source in (*stored.values(), *encoder.tensors.values())}
    if encoder.path.is_dir():
        files.add(encoder.path / "config.json")
    return Released(
        config=config,
        dtype=dtype,
        tensors={name: tensors[name] for name in wanted},
        encoder_origin=origin,
        files=sorted(files | {path}),
    )


def _choose_encoder(
    folder: Path,
    values: dict[str, Any],
    stored: Mapping[str, Source],
    given: Path | None,
    heads: int | None,
) -> ReleasedEncoder:
    if given is not None:
        return read_encoder(given)
    named = values.get("speech_encoder")
    if isinstance(named, str) and named and (folder / named).exists():
        return read_encoder(folder / named)
    if any(name.startswith(_ENCODER) for name in stored):
        return encoder_in_shards(folder, stored, _ENCODER, heads)
    raise CheckpointError(
        f"{folder} must hold {_ENCODER}* in its shards or the file {named!r} that its config.json "
        "names, got neither; give a Whisper (openai's .pt or a Hugging Face folder) as speech "
        "encoder"
    )


def _omni_config(path: Path, values: dict[str, Any], encoder: WhisperConfig) -> OmniConfig:
    for key, known in _KINDS.items():
        got = values.get(key, known)
        if got != known:
            raise CheckpointError(f"{key} in {path} must be {known!r}, got {got!r}")
    for key in (*_LLM_SIZES, *_OMNI_SIZES):
        got = values.get(key)
        if not isinstance(got, int) or got < 1:
            raise CheckpointError(f"{key} in {path} must be a whole number, got {got!r}")
    width = values.get("speech_encoder_hidden_size", encoder.d_model)
    if width != encoder.d_model:
        raise CheckpointError(
            f"speech_encoder_hidden_size in {path} must be the encoder's width {encoder.d_model}, "
            f"got {width!r}"
        )
    limit = values.get("tokenizer_model_max_length")
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise CheckpointError(
            f"tokenizer_model_max_length in {path} must be a whole number or null, got {limit!r}"
        )
    llm = _llm_config(path, values)
    layers, hidden_size, heads, intermediate_size = _ctc_decoder(path, values)
    try:
        return OmniConfig(
            encoder=encoder,
            llm=llm,
            adapter=AdapterConfig(
                stack=values["speech_encoder_ds_rate"], hidden_dim=_ADAPTER_WIDTH
            ),
            speech_decoder=SpeechDecoderConfig(  # its head width is its own, never the LLM's
                upsample_factor=values["ctc_upsample_factor"],
                num_units=values["unit_vocab_size"],
                num_layers=layers,
                hidden_size=hidden_size,
                num_heads=heads,
                intermediate_size=intermediate_size,
                rms_norm_eps=llm.rms_norm_eps,
                rope_parameters=dict(llm.rope_parameters or {}),
            ),
            prompt="llama3",
            pad_to_window=True,
            max_positions=limit or llm.max_position_embeddings,
            ctc_states="labelled",
            ctc_loss_weight=values.get("ctc_loss_weight", 1.0),
            architectures=["OmniModel"],
        )
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _llm_config(path: Path, values: dict[str, Any]) -> LlamaConfig:
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise CheckpointError(f"rope_scaling in {path} must be an object, got {rope!r}")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in _ROPE_TYPES:
        raise CheckpointError(
            f"rope_type in {path} must be one of {', '.join(_ROPE_TYPES)}, got {kind!r}"
        )
    llama = {key: value for key, value in values.items() if not _NOT_LLAMA.fullmatch(key)}
    generation = path.parent / "generation_config.json"
    if generation.is_file():  # generation stops where it says, whatever config.json says
        stop = read_json(generation).get("eos_token_id")
        llama |= {} if stop is None else {"eos_token_id": stop}
    try:
        return LlamaConfig(**llama)
    except (StrictDataclassError, ValueError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} must describe a Llama, got: {reason}") from error


def _ctc_decoder(path: Path, values: dict[str, Any]) -> tuple[int, int, int, int]:
    text = values.get("ctc_decoder_config")
    sizes = (
        re.fullmatch(r"\((\d+), *(\d+), *(\d+), *(\d+)\)", text) if isinstance(text, str) else None
    )
    if not sizes:
        raise CheckpointError(
            f"ctc_decoder_config in {path} must be '(layers,width,heads,feed-forward width)', "
            f"got {text!r}"
        )
    return int(sizes[1]), int(sizes[2]), int(sizes[3]), int(sizes[4])


def _dtype(path: Path, values: dict[str, Any], stored: Mapping[str, Source]) -> torch.dtype:
    named = values.get("torch_dtype") or values.get("dtype")
    if named is None and _EMBEDDING in stored:
        return stored[_EMBEDDING].dtype
    for dtype in DTYPES.values():
        if named in (str(dtype), str(dtype).removeprefix("torch.")):
            return dtype
    raise CheckpointError(
        f"torch_dtype in {path} must be float32, float16 or bfloat16, got {named!r}"
    )


def _drop_tied_head(stored: dict[str, Source]) -> None:
    head, embedding = stored.pop(_HEAD, None), stored.get(_EMBEDDING)
    if head is None or embedding is None:
        return
    pairs = zip(head.pieces(), embedding.pieces(), strict=True)
    same = head.dtype == embedding.dtype and head.shape == embedding.shape
    if not same or not all(torch.equal(one, other) for one, other in pairs):
        raise CheckpointError(
            f"tensor {_HEAD} in {head.path} must equal {_EMBEDDING} where tie_word_embeddings is "
            "true, got another"
        )


def released_name(name: str) -> str:
    """Return the released name of one of our tensors outside the encoder."""
    ours = next(prefix for prefix in _PREFIXES if name.startswith(prefix))
    return _PREFIXES[ours] + name.removeprefix(ours)


def _match(
    expected: Mapping[str, Tensor],
    available: Mapping[str, Source],
    their_name: Callable[[str], str],
    where: Path,
) -> dict[str, Source]:
    """Find every expected tensor under its other name; refuse what is missing, extra, misshapen."""
    found: dict[str, Source] = {}
    for name, like in expected.items():
        theirs, shape = their_name(name), tuple(like.shape)
        source = available.get(theirs)
        if source is None:
            raise CheckpointError(f"{where} must hold tensor {theirs} of shape {shape}, got none")
        if source.shape != shape:
            raise CheckpointError(
                f"tensor {theirs} in {source.path} must have shape {shape}, got {source.shape}"
            )
        found[name] = source
    extra = sorted(available.keys() - {source.name for source in found.values()})
    if extra:
        more = f" and {len(extra) - 1} more" if len(extra) > 1 else ""
        raise CheckpointError(
            f"{available[extra[0]].path} must hold only tensors of its model, "
            f"got {extra[0]} of shape {available[extra[0]].shape}{more}"
        )
    return found
