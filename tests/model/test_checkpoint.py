
import pytest
import torch

from llama_omni.model.checkpoint import load_model, random_model
from llama_omni.model.config import OmniConfig
from llama_omni.model.presets import preset


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


@pytest.fixture
def native(tmp_path):
    """A native folder of several shards."""
    random_model(small_config()).save_pretrained(tmp_path / "native", max_shard_size="100KB")
    return tmp_path / "native"


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    names, others = dict(one.named_buffers()), dict(other.named_buffers())
    names |= dict(one.state_dict())
    others |= dict(other.state_dict())
    return names.keys() == others.keys() and all(
        torch.equal(value, others[name]) for name, value in names.items()
    )


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_saved_model_comes_back_bit_for_bit_from_several_shards(tied, tmp_path):
    model = random_model(small_config(tie_word_embeddings=tied), seed=3)
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    loaded = load_model(tmp_path)
    assert same(model, loaded)
    embed, head = loaded.get_input_embeddings(), loaded.get_output_embeddings()
    assert (embed.weight is head.weight) is tied
    assert not loaded.training


def test_load_model_casts_weights_but_not_rope(native):
    model = load_model(native, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.speech_decoder.rotary_emb.inv_freq.dtype == torch.float32


def test_random_model_is_the_same_for_a_seed_and_leaves_the_random_state():
    state = torch.get_rng_state()
    one, two = random_model(small_config(), seed=1), random_model(small_config(), seed=1)
    assert same(one, two)
    assert not same(one, random_model(small_config(), seed=2))
    assert torch.equal(state, torch.get_rng_state())


def test_random_model_is_built_in_its_dtype_with_whispers_positions():
    model = random_model(small_config(), dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.speech_decoder.rotary_emb.inv_freq.dtype == torch.float32
    positions = model.encoder.embed_positions.weight.float()
    assert positions[0].tolist() == [0.0] * 8 + [1.0] * 8
    assert positions[1, 0] == pytest.approx(0.8415, abs=4e-3)
    assert torch.get_default_dtype() == torch.float32


def test_random_tied_model_shares_its_embedding():
    model = random_model(small_config(tie_word_embeddings=True))
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
