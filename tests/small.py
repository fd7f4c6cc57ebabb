"""A model small enough to test with: random weights far enough apart that no two logits tie."""

import torch
from transformers import LlamaConfig, PretrainedConfig, WhisperConfig

from llama_omni.model.config import AdapterConfig, OmniConfig, SpeechDecoderConfig
from llama_omni.model.omni import OmniModel

SMALL = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}


def small_model(llm: PretrainedConfig | None = None, **config) -> OmniModel:
    """Build it in evaluation mode; `config` goes to `OmniConfig`."""
    torch.manual_seed(0)
    whisper = WhisperConfig(
        num_mel_bins=8,
        d_model=8,
        encoder_layers=1,
        encoder_attention_heads=1,
        encoder_ffn_dim=8,
        max_source_positions=50,
        dropout=0.5,
    )
    decoder = SpeechDecoderConfig(
        upsample_factor=5,
        num_units=7,
        hidden_size=16,
        num_heads=2,
        intermediate_size=24,
        frame_embedding=True,
        token_embedding=True,
    )
    model = OmniModel(
        OmniConfig(
            encoder=whisper,
            llm=llm or LlamaConfig(**SMALL),
            adapter=AdapterConfig(hidden_dim=8),
            speech_decoder=decoder,
            **config,
        )
    )
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()
