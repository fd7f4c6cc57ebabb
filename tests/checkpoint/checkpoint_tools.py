"""What the checkpoint tests share: small models, and damage done to files."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from llama_omni.model.config import OmniConfig
from llama_omni.model.omni import OmniModel
from llama_omni.model.presets import preset

GOLDEN = Path(__file__).parents[1] / "golden"
OMNI = GOLDEN / "omni"
ENCODER = "model.speech_encoder."
FLOAT = {"atol": 5e-4, "rtol": 1e-4}


def small_config(**llm) -> OmniConfig:
    """The tiny preset, smaller: a test builds several."""
    values = preset("tiny").to_dict()
    values["encoder"] |= {"d_model": 16, "encoder_layers": 2, "encoder_ffn_dim": 32}
    values["encoder"] |= {"encoder_attention_heads": 2, "max_source_positions": 50}
    values["llm"] |= {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48}
    values["llm"] |= {"head_dim": 8, **llm}
    values["adapter"]["hidden_dim"] = 24
    values["speech_decoder"] |= {"hidden_size": 32, "intermediate_size": 48}
    names = ("encoder", "llm", "adapter", "speech_decoder")
    return OmniConfig(**{name: values[name] for name in names})


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Tell whether two models have the same weights and buffers, bit for bit."""
    names, others = dict(one.named_buffers()), dict(other.named_buffers())
    names |= dict(one.state_dict())
    others |= dict(other.state_dict())
    return names.keys() == others.keys() and all(
        torch.equal(value, others[name]) for name, value in names.items()
    )


def edit_json(path: Path, **values) -> None:
    """Set keys of a JSON file; `...` takes a key away."""
    known = json.loads(path.read_text()) | values
    path.write_text(json.dumps({k: v for k, v in known.items() if v is not ...}))


def edit_tensors(path: Path, edit) -> None:
    """Load a file's tensors, let `edit` change the dictionary, and save it."""
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path, {"format": "pt"})


def cut_in_shards(folder: Path, *, index: bool) -> list[Path]:
    """Cut a folder's one file into three shards."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names, weight_map = sorted(tensors), {}
    for number in range(3):
        path = folder / f"model-{number + 1:05}-of-00003.safetensors"
        save_file({name: tensors[name] for name in names[number::3]}, path, {"format": "pt"})
        weight_map |= dict.fromkeys(names[number::3], path.name)
    if index:
        text = json.dumps({"metadata": {}, "weight_map": weight_map})
        (folder / "model.safetensors.index.json").write_text(text)
    return sorted(folder.glob("model-*.safetensors"))


def drop_encoder(folder: Path) -> dict[str, torch.Tensor]:
    """Take the encoder out of the shards; return it by openai's names."""
    encoder = {}

    def edit(tensors):
        for name in [name for name in tensors if name.startswith(ENCODER)]:
            encoder[name.removeprefix(ENCODER)] = tensors.pop(name)

    edit_tensors(folder / "model.safetensors", edit)
    return encoder


def assert_parity(model: OmniModel) -> None:
    """Compare with the reference's numbers."""
    tensors = load_file(OMNI / "inputs.safetensors") | load_file(OMNI / "outputs.safetensors")
    with torch.no_grad():
        features = model.encoder(tensors["speech"].transpose(1, 2))
        assert_close(features, tensors["encoder_out"], **FLOAT)
        hidden = tensors["gen_hidden"][None]
        unit_logits, _ = model.speech_decoder(hidden)
        assert_close(unit_logits[0, :75], tensors["gen_ctc_logits"], atol=2e-3, rtol=0.0)
        rows = model.adapt(features, tensors["speech_lengths"])
        start = 0
        for row, speech in enumerate(rows):  # one by one: without padding all is valid
            kept = tensors["attention_mask"][row].bool()
            logits = model(tensors["input_ids"][row : row + 1, kept], [speech]).logits[0]
            assert_close(logits, tensors["logits_valid"][start : start + len(logits)], **FLOAT)
            start += len(logits)
        assert start == len(tensors["logits_valid"])
