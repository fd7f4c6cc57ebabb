"""A model to begin stage 1 with: an LLM and a Whisper encoder that exist, the rest new or kept."""

import copy
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM

from llama_omni.checkpoint.native import quiet_transformers, random_model
from llama_omni.checkpoint.released_encoder import ReleasedEncoder, read_encoder
from llama_omni.checkpoint.safetensors_read import refuse_run
from llama_omni.errors import CheckpointError, ConfigError
from llama_omni.model.config import OmniConfig
from llama_omni.model.omni import OmniModel
from llama_omni.model.tokenizer import TextTokenizer, load_tokenizer
from llama_omni.prompt import prompt_template
from llama_omni.train.llm_tokens import check_fit

# What decides how an encoder computes; the rest of a Whisper's configuration is its decoder's.
_HEARING = (
    "d_model encoder_layers encoder_attention_heads encoder_ffn_dim num_mel_bins "
    "max_source_positions activation_function".split()
)
_ABOUT = {"_name_or_path", "architectures", "dtype", "transformers_version", "use_cache"}


def assemble(
    config: OmniConfig, *, llm: str, encoder: Path, seed: int = 0
) -> tuple[OmniModel, TextTokenizer]:
    """Put a model together; adapter and speech decoder get random weights.

    Args:
        config: adapter, speech decoder and prompt are taken from it; encoder and LLM are what the
            weights are for.
        llm: folder of a causal language model of Transformers with its tokeniser, or a hub id.
        encoder: folder of a Whisper (or of what `train encoder` made), or openai's `.pt`.
        seed: of the random weights.

    Returns:
        The model in float32 and evaluation mode, and the LLM's tokeniser.

    Raises:
        CheckpointError: weights are missing, damaged, or no such model.
        ConfigError: the LLM is no folder and not to be had, or does not go with its tokeniser.
    """
    config = copy.deepcopy(config)
    heard = read_encoder(encoder)
    config.encoder = heard.config
    text, folder = read_llm(llm)
    tokenizer = load_tokenizer(folder)
    check_fit(text.config, tokenizer, prompt_template(config.prompt), folder=folder)
    config.llm = text.config
    config.tie_word_embeddings = config.llm.tie_word_embeddings
    model = random_model(config, seed=seed, llm=text)
    _take_encoder(model, heard)
    model.requires_grad_(True)
    model.encoder.requires_grad_(False)
    return model, tokenizer


def renew(
    model: OmniModel, tokenizer: TextTokenizer, *, llm: str | None, encoder: Path | None
) -> None:
    """Put another LLM, another encoder or both in a model, whose other parts keep their weights.

    Args:
        model: changed in place.
        tokenizer: the model's own; a new LLM must have the same.
        llm: as for `assemble`, of the same configuration as the model's; None: it stays.
        encoder: as for `assemble`, of the same sizes as the model's; None: it stays.

    Raises:
        CheckpointError: weights are missing, damaged, or no such model.
        ConfigError: a part does not fit in the other's place.
    """
    if encoder is not None:
        heard = read_encoder(encoder)
        found, wanted = (
            {k: getattr(c, k) for k in _HEARING} for c in (heard.config, model.config.encoder)
        )
        _same(found, wanted, heard.path)
        _take_encoder(model, heard)
    if llm is not None:
        text, folder = read_llm(llm)
        check_alike(text.config, model.config.llm, folder)
        check_tokens(folder, tokenizer)
        model.llm = text


def _same(found: dict[str, Any], wanted: dict[str, Any], path: Path) -> None:
    for name, value in wanted.items():
        if found.get(name) != value:
            raise ConfigError(
                f"{path} must have the model's {name}, {value!r}, got {found.get(name)!r}"
            )


def check_alike(found: Any, wanted: Any, folder: Path) -> None:
    """Refuse an LLM's configuration that does not compute as another; where it lies may differ.

    Raises:
        ConfigError: they differ; names the first difference.
    """
    values = wanted.to_dict()
    names = ["model_type", *sorted(values.keys() - _ABOUT)]
    _same(found.to_dict(), {name: values[name] for name in names}, folder)


def check_tokens(folder: Path, tokenizer: TextTokenizer) -> None:
    """Refuse a folder with other tokens.

    Raises:
        ConfigError: they differ.
    """
    if load_tokenizer(folder).inner.get_vocab() != tokenizer.inner.get_vocab():
        raise ConfigError(f"{folder} must have the model's own tokens, got others")


def read_llm(llm: str) -> tuple[Any, Path]:
    """Return a causal language model in float32, and its folder.

    Args:
        llm: a folder of Transformers, or a hub id.

    Raises:
        CheckpointError: it cannot be read, or a tensor is missing.
        ConfigError: it is no folder and not to be had.
    """
    folder = _folder(llm)
    refuse_run(folder)
    try:
        with quiet_transformers():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=torch.float32,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, SafetensorError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{folder} must hold a language model, got: {reason}") from error
    text, info = loaded
    if info["missing_keys"]:
        raise CheckpointError(f"{folder} must hold tensor {min(info['missing_keys'])}, got none")
    if Path(llm).is_dir():
        text.config.name_or_path = ""  # a path of this machine, which would go into the product
    return text.eval(), folder


def _take_encoder(model: OmniModel, heard: ReleasedEncoder) -> None:
    """Copy an encoder's weights into a model's."""
    weights = {}
    for name, value in model.encoder.state_dict().items():
        source = heard.tensors.get(heard.their_name(name))
        if source is None or tuple(source.shape) != tuple(value.shape):
            found = "none" if source is None else str(tuple(source.shape))
            raise CheckpointError(
                f"{heard.path} must hold {heard.their_name(name)} of shape {tuple(value.shape)}, "
                f"got {found}"
            )
        pieces = torch.cat([piece.flatten() for piece in source.pieces()])
        weights[name] = pieces.view(value.shape).float()
    model.encoder.load_state_dict(weights)


def _folder(name: str) -> Path:
    if Path(name).is_dir():
        return Path(name)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ConfigError(f"llm must be a folder or a hub id (owner/name), got {name!r}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"llm {name!r} is no folder, nor to be had: {reason}") from error
