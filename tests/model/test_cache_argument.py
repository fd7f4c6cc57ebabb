import warnings

import pytest
import torch
from torch import nn
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from llama_omni.model.cache_argument import cache_argument


class NewName(nn.Module):
    def forward(self, x, cache=None):
        return x if cache is None else x + cache


class OldName(nn.Module):
    def forward(self, x, past_key_values=None):
        return x if past_key_values is None else x + past_key_values


class AnyName(nn.Module):
    def forward(self, x, **options):
        return x, options


@pytest.mark.parametrize(
    ("module", "name"),
    [(NewName(), "cache"), (OldName(), "past_key_values"), (AnyName(), "past_key_values")],
    ids=["new", "old", "unnamed"],
)
def test_cache_argument_is_what_the_signature_says(module, name):
    assert cache_argument(module) == name
    module(torch.zeros(1), **{cache_argument(module): torch.ones(1)})


@pytest.mark.parametrize(
    ("config", "model"),
    [(LlamaConfig, LlamaForCausalLM), (Qwen2Config, Qwen2ForCausalLM)],
    ids=["llama", "qwen2"],
)
def test_installed_models_take_a_cache_without_a_warning_and_fill_it(config, model):
    llm = model(
        config(
            vocab_size=8,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            num_key_value_heads=1,
        )
    )
    for module in (llm, llm.get_decoder()):
        cache = DynamicCache(config=llm.config)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            module(torch.tensor([[1, 2, 3]]), use_cache=True, **{cache_argument(module): cache})
        assert cache.get_seq_length() == 3
