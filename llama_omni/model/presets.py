"""Named sizes of the whole model: `8b` (the paper's), `1b`, and `tiny` (the embedded one's).

Each turns on the two additions to the paper's decoder (ADR 0002, ADR 0003); a released checkpoint
is converted with both off.
"""

from collections.abc import Callable
from typing import Any

from transformers import LlamaConfig, WhisperConfig

from llama_omni.errors import ConfigError
from llama_omni.model.config import AdapterConfig, OmniConfig, SpeechDecoderConfig

_LLAMA3_TOKENS: dict[str, Any] = {
    "vocab_size": 128256,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    "pad_token_id": 128004,
}


def _llama3_rope(factor: float) -> dict[str, Any]:
    return {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


def _whisper(
    layers: int, width: int, heads: int, mels: int, positions: int = 1500
) -> WhisperConfig:
    return WhisperConfig(
        num_mel_bins=mels,
        d_model=width,
        encoder_layers=layers,
        encoder_attention_heads=heads,
        encoder_ffn_dim=4 * width,
        decoder_layers=layers,
        decoder_attention_heads=heads,
        decoder_ffn_dim=4 * width,
        max_source_positions=positions,
        activation_function="gelu",
    )


def _8b() -> OmniConfig:
    """Whisper-large-v3 + Llama-3.1-8B + the paper's 2 x 4096 speech decoder."""
    return OmniConfig(
        encoder=_whisper(32, 1280, 20, 128),
        llm=LlamaConfig(
            hidden_size=4096,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=8,
            intermediate_size=14336,
            max_position_embeddings=131072,
            rms_norm_eps=1e-5,
            rope_parameters=_llama3_rope(8.0),
            **_LLAMA3_TOKENS,
        ),
        speech_decoder=SpeechDecoderConfig(
            rope_parameters=_llama3_rope(8.0), frame_embedding=True, token_embedding=True
        ),
    )


def _1b() -> OmniConfig:
    """Whisper-small + Llama-3.2-1B + a 2 x 2048 speech decoder."""
    return OmniConfig(
        encoder=_whisper(12, 768, 12, 80),
        llm=LlamaConfig(
            hidden_size=2048,
            num_hidden_layers=16,
            num_attention_heads=32,
            num_key_value_heads=8,
            head_dim=64,
            intermediate_size=8192,
            max_position_embeddings=131072,
            rms_norm_eps=1e-5,
            rope_parameters=_llama3_rope(32.0),
            tie_word_embeddings=True,
            **_LLAMA3_TOKENS,
        ),
        speech_decoder=SpeechDecoderConfig(
            hidden_size=2048,
            num_heads=32,
            intermediate_size=5504,
            rope_parameters=_llama3_rope(32.0),
            frame_embedding=True,
            token_embedding=True,
        ),
    )


def _tiny() -> OmniConfig:
    """About ten million parameters: answers faster than real time on one CPU thread."""
    return OmniConfig(
        encoder=_whisper(4, 160, 4, 80),
        llm=LlamaConfig(
            vocab_size=1024,
            hidden_size=256,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=704,
            max_position_embeddings=2048,
            rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            bos_token_id=1000,
            eos_token_id=[1001, 1005, 1006],
            pad_token_id=1002,
        ),
        adapter=AdapterConfig(hidden_dim=512),
        speech_decoder=SpeechDecoderConfig(
            num_units=200,
            upsample_factor=16,  # its answers have 9.1 units a token, at most 14.5
            hidden_size=256,
            num_heads=4,
            intermediate_size=704,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            frame_embedding=True,
            token_embedding=True,
        ),
        prompt="compact",
    )


_PRESETS: dict[str, Callable[[], OmniConfig]] = {"8b": _8b, "1b": _1b, "tiny": _tiny}
PRESET_NAMES = tuple(_PRESETS)


def preset(name: str) -> OmniConfig:
    """Return the configuration of a named size.

    Raises:
        ConfigError: for a name that is none of them; the message lists the known ones.
    """
    if name not in _PRESETS:
        raise ConfigError(f"preset must be one of {', '.join(_PRESETS)}, got {name!r}")
    return _PRESETS[name]()
