"""VITS in the published layout, small and with random weights."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import VitsConfig, VitsModel

# As in facebook/mms-tts-eng: ids of characters, the padding first.
ALPHABET = "_ 'abcdefghijklmnopqrstuvwxyz-"


def write_vits(folder: Path, *, seed: int = 0, **changes: Any) -> Path:
    """Write a folder of config, vocabulary and tensors; `changes` are fields of the config."""
    small: dict[str, Any] = {
        "vocab_size": len(ALPHABET) + 1,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "ffn_dim": 32,
        "flow_size": 16,
        "spectrogram_bins": 33,
        "prior_encoder_num_flows": 2,
        "prior_encoder_num_wavenet_layers": 1,
        "posterior_encoder_num_wavenet_layers": 1,
        "duration_predictor_num_flows": 1,
        "duration_predictor_filter_channels": 16,
        "depth_separable_num_layers": 1,
        "upsample_initial_channel": 32,
        "upsample_rates": [8, 8, 4],
        "upsample_kernel_sizes": [16, 16, 8],
        "resblock_kernel_sizes": [3],
        "resblock_dilation_sizes": [[1, 3]],
        "sampling_rate": 22_050,
    }
    torch.manual_seed(seed)
    VitsModel(VitsConfig(**small | changes)).save_pretrained(folder)
    vocabulary = {letter: number for number, letter in enumerate([*ALPHABET, "<unk>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    settings = {
        "add_blank": True,
        "is_uroman": False,
        "language": "eng",
        "normalize": True,
        "pad_token": "_",
        "phonemize": False,
        "tokenizer_class": "VitsTokenizer",
        "unk_token": "<unk>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder
