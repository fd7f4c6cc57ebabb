"""New parts in a model whose other parts keep what they learnt."""

import copy

import pytest
import torch
from torch.testing import assert_close
from transformers import LlamaForCausalLM

from llama_omni.checkpoint.native import random_model
from llama_omni.errors import ConfigError
from llama_omni.model.encoder import SpeechEncoder
from llama_omni.model.presets import preset
from llama_omni.model.tokenizer import random_tokenizer
from llama_omni.train.assemble import assemble, renew


@pytest.fixture
def model():
    return random_model(preset("tiny"), seed=1)


@pytest.fixture
def tokenizer():
    return random_tokenizer(preset("tiny"))


def saved(folder, **changes):
    """Write a language model, its tokeniser and an encoder, changed in configuration."""
    torch.manual_seed(7)
    config = preset("tiny")
    for name, value in changes.items():
        part, field = name.split("__")
        setattr(getattr(config, part), field, value)
    LlamaForCausalLM(config.llm).save_pretrained(folder / "llm")
    random_tokenizer(config).inner.save_pretrained(folder / "llm")
    SpeechEncoder(config.encoder).save_pretrained(folder / "encoder")
    return {"llm": str(folder / "llm"), "encoder": folder / "encoder"}


@pytest.mark.parametrize("part", ["llm", "encoder"])
def test_one_part_is_new_and_the_others_stay(model, tokenizer, tmp_path, part):
    before = copy.deepcopy(model.state_dict())
    parts = saved(tmp_path)
    renew(model, tokenizer, **(dict.fromkeys(parts) | {part: parts[part]}))
    kinds = {"llm": LlamaForCausalLM, "encoder": SpeechEncoder}
    assert_close(
        getattr(model, part).state_dict(), kinds[part].from_pretrained(parts[part]).state_dict()
    )
    changed = {n.split(".")[0] for n, w in model.state_dict().items() if not w.equal(before[n])}
    assert changed == {part}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder__encoder_attention_heads": 2}, "encoder must have the model's encoder_atten"),
        ({"encoder__encoder_layers": 1}, "encoder must have the model's encoder_layers, "),
        ({"llm__num_hidden_layers": 1}, "llm must have the model's num_hidden_layers, "),
        ({"llm__rms_norm_eps": 1e-3}, "llm must have the model's rms_norm_eps, .*, got 0.001"),
    ],
)
def test_part_of_another_kind_is_refused(model, tokenizer, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        renew(model, tokenizer, **saved(tmp_path, **changes))


def test_language_model_of_other_tokens_is_refused(model, tokenizer, tmp_path):
    parts = saved(tmp_path)
    tokenizer.inner.add_tokens(["hello"])
    tokenizer.inner.save_pretrained(parts["llm"])
    with pytest.raises(ConfigError, match="llm must have the model's own tokens, got others"):
        renew(model, random_tokenizer(preset("tiny")), llm=parts["llm"], encoder=None)


def test_parts_become_a_model(tmp_path):
    parts = saved(tmp_path)
    model, tokenizer = assemble(preset("tiny"), **parts)
    assert len(tokenizer.inner) == model.config.llm.vocab_size == 1024
    llm = LlamaForCausalLM.from_pretrained(parts["llm"]).state_dict()
    assert all(torch.equal(value, llm[name]) for name, value in model.llm.state_dict().items())
    tensors = [*model.parameters(), *model.buffers()]
    assert not any(value.is_meta for value in tensors)
    assert all(bool(torch.isfinite(value).all()) for value in tensors)
    assert model.get_input_embeddings() is model.llm.get_input_embeddings()
    like = random_model(model.config).adapter.linear1.weight.std()
    assert_close(model.adapter.linear1.weight.std(), like, rtol=0.1, atol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 1010}, "llm must have a vocab_size of at least 1024, its tokenizer's"),
        (
            {"eos_token_id": [3]},
            r"llm must stop at <\|eot_id\|>, token 1006, .* got eos_token_id \[3\]",
        ),
    ],
)
def test_language_model_that_does_not_fit_its_tokenizer_is_refused(tmp_path, changes, message):
    parts = saved(tmp_path)
    config = preset("tiny").llm
    for name, value in changes.items():
        setattr(config, name, value)
    LlamaForCausalLM(config).save_pretrained(parts["llm"])
    with pytest.raises(ConfigError, match=message):
        assemble(preset("tiny"), **parts)
