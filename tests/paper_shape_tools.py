"""What the paper downloaded, at its shape and made small: texts, voices, HuBERT, Whisper, Llama.

Random weights in the published layouts. Only widths, depths and vocabularies are small; mel bins,
windows, strides, the adapter's stack, lambda and the number of units are the paper's.
"""

import copy
import json
from pathlib import Path

import torch
from transformers import HubertConfig, HubertModel, LlamaForCausalLM

from llama_omni.checkpoint.released_encoder import openai_name
from llama_omni.model import presets
from llama_omni.model.config import AdapterConfig, OmniConfig, SpeechDecoderConfig
from llama_omni.model.encoder import SpeechEncoder
from llama_omni.model.tokenizer import random_tokenizer
from llama_omni.model.vocoder import UnitVocoder, VocoderConfig
from tests.stub_server import schema_of, words_of
from tests.vits_tools import write_vits

ALPACA, ULTRACHAT = 13, 37  # 1 to 3, as 50K to 150K
CODE = "Write a program"  # what no voice can say, once it is rewritten
SECRET = "Tell me the secret"  # what the server answers with a table
AGAIN = "Why does bread rise?"  # is asked in both sources

_THINGS = "kettle ladder lantern compass hammock bicycle teapot violin".split()
_ASKED = ("What is a {} good for?", "How do I clean a {}?", "Who needs a {}?", "Describe a {}.")


def questions(number: int, first: int) -> list[str]:
    """Return so many questions, all different, beginning with one of them all."""
    return [
        _ASKED[i % len(_ASKED)].format(_THINGS[i // len(_ASKED) % len(_THINGS)])
        + (" Be brief." if i >= len(_ASKED) * len(_THINGS) else "")
        for i in range(first, first + number)
    ]


def write_sources(folder: Path) -> tuple[Path, Path]:
    """Write Alpaca's JSON and UltraChat's lines, a little more of each than is taken."""
    asked = [AGAIN, CODE, *questions(ALPACA, 0)]
    rows = [
        {"instruction": text, "input": "It is red." if i % 4 == 3 else "", "output": "Not used."}
        for i, text in enumerate(asked)
    ]
    alpaca = folder / "alpaca_data.json"
    alpaca.write_text(json.dumps(rows), encoding="utf-8")
    asked = [SECRET, AGAIN, *questions(ULTRACHAT, ALPACA)]
    dialogues = [
        {"id": str(i), "data": [text, "Not used.", "And then?", "Not used."]}
        for i, text in enumerate(asked)
    ]
    ultrachat = folder / "ultrachat_release.jsonl"
    ultrachat.write_text("".join(json.dumps(row) + "\n" for row in dialogues), encoding="utf-8")
    return alpaca, ultrachat


def reply(body: dict) -> str:
    """What the chat server writes: a question as it is asked aloud, or a short answer."""
    schema, asked = schema_of(body), body["messages"][-1]["content"]
    assert schema is not None
    (field,) = schema["properties"]
    if field == "question":
        text = asked.partition("Instruction:")[2].strip().replace("\n", " ")
        said = "```python\nprint(1)\n```" if CODE in asked else f"So, {text[0].lower()}{text[1:]}"
    else:
        secret = SECRET.lower() in asked.lower()
        said = "| a | b |\n|---|---|\n| 1 | 2 |" if secret else f"Say {words_of(asked)}."
    return json.dumps({field: said})


def write_voice(folder: Path, *, speakers: int) -> Path:
    """Write a VITS in the layout of Transformers."""
    size = 8 if speakers > 1 else 0
    return write_vits(folder, seed=speakers, num_speakers=speakers, speaker_embedding_size=size)


def write_hubert(folder: Path) -> Path:
    """Write a HuBERT base: 12 layers, kernels and strides as published."""
    torch.manual_seed(0)
    config = HubertConfig(
        hidden_size=16,
        num_hidden_layers=12,
        num_attention_heads=2,
        intermediate_size=24,
        conv_dim=(8,) * 7,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
    )
    HubertModel(config).save_pretrained(folder)
    return folder


def narrow(whole: OmniConfig) -> OmniConfig:
    """Return a configuration with small widths, depths and vocabulary, and all else as it was."""
    values = whole.to_dict()
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
    tokens = {"vocab_size": 768, "bos_token_id": 512, "eos_token_id": [513, 520, 521]}
    values["llm"] |= {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48}
    values["llm"] |= {**heads, **tokens, "pad_token_id": 516}
    values["encoder"] |= {"d_model": 32, "encoder_layers": 2, "encoder_ffn_dim": 128}
    values["encoder"] |= {"encoder_attention_heads": 2}
    values["adapter"] |= {"hidden_dim": 48}
    values["speech_decoder"] |= {"hidden_size": 32, "num_heads": 2, "intermediate_size": 64}
    own = {key: values[key] for key in ("prompt", "pad_to_window", "max_positions", "ctc_states")}
    return OmniConfig(
        encoder=values["encoder"],
        llm=values["llm"],
        adapter=AdapterConfig(**values["adapter"]),
        speech_decoder=SpeechDecoderConfig(**values["speech_decoder"]),
        **own,
    )


def write_llama(folder: Path, config: OmniConfig) -> Path:
    """Write a Llama 3.1 with its tokeniser, in the layout of Transformers."""
    torch.manual_seed(0)
    LlamaForCausalLM(config.llm).save_pretrained(folder)  # pyright: ignore[reportArgumentType]
    random_tokenizer(config).inner.save_pretrained(folder)
    return folder


def write_whisper(path: Path, config: OmniConfig) -> Path:
    """Write the encoder of a large-v3 as openai's .pt."""
    torch.manual_seed(0)
    sizes = config.encoder
    encoder = SpeechEncoder(sizes)
    dims = {
        "n_mels": sizes.num_mel_bins,
        "n_audio_ctx": sizes.max_source_positions,
        "n_audio_state": sizes.d_model,
        "n_audio_head": sizes.encoder_attention_heads,
        "n_audio_layer": sizes.encoder_layers,
    }
    weights = {f"encoder.{openai_name(name)}": w for name, w in encoder.state_dict().items()}
    torch.save({"dims": dims, "model_state_dict": weights}, path)
    return path


def write_vocoder(folder: Path) -> Path:
    """Write the vocoder of 1000 units: HiFi-GAN at 16 kHz, narrow."""
    torch.manual_seed(0)
    config = VocoderConfig(
        embedding_dim=16,
        initial_channels=32,
        resblock_kernel_sizes=(3,),
        resblock_dilations=((1, 3, 5),),
        duration_hidden_dim=16,
    )
    UnitVocoder(config).save_pretrained(folder)
    return folder


def narrow_preset(monkeypatch) -> OmniConfig:
    """Put a narrow model in the place of the preset `8b`; return it."""
    config = narrow(presets.preset("8b"))
    monkeypatch.setitem(presets._PRESETS, "8b", lambda: copy.deepcopy(config))
    return config
