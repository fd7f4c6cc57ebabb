import pytest
import torch

from llama_omni.errors import ConfigError
from llama_omni.model.config import AdapterConfig, OmniConfig, SpeechDecoderConfig
from llama_omni.model.omni import OmniModel
from llama_omni.model.presets import PRESET_NAMES, preset

# The release has 9,114,381,289 parameters; our two additions put 16,777,216 + 102,400 on top.
PARAMETERS = {"8b": 9_114_381_289 + 4096 * 4096 + 25 * 4096}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"adaptor": {}}, "no field 'adaptor' in OmniConfig; it has encoder, llm, adapter"),
        ({"adapter": {"stak": 5}}, "no field 'stak' in adapter; it has stack, hidden_dim"),
        ({"adapter": {"stack": 0}}, "adapter.stack must be at least 1, got 0"),
        ({"speech_decoder": {"num_units": 0}}, "speech_decoder.num_units must be at least 1"),
        ({"speech_decoder": {"num_heads": 3}}, "hidden_size must be num_heads times an even"),
        ({"ctc_states": "shifted"}, "ctc_states must be predicting or labelled, got 'shifted'"),
        ({"prompt": "nope"}, "prompt template must be one of llama3, chatml, compact, got 'nope'"),
        ({"ctc_loss_weight": -1.0}, "ctc_loss_weight must be 0 or more, got -1"),
        ({"to_dict": 1}, "no field 'to_dict' in OmniConfig"),
        ({"speech_decoder": {"rms_norm_eps": 0.0}}, "rms_norm_eps must be above 0, got 0.0"),
        (
            {"speech_decoder": {"rope_parameters": {"rope_type": "zzz"}}},
            "rope_type must be one of default, .*, got 'zzz'",
        ),
        ({"max_positions": 0}, "max_positions must be at least 1, got 0"),
    ],
)
def test_config_refuses(arguments, message):
    with pytest.raises(ConfigError, match=message):
        OmniConfig(**arguments)


def test_config_defaults_are_the_papers():
    assert AdapterConfig().stack == 5
    decoder = SpeechDecoderConfig()
    assert (decoder.upsample_factor, decoder.num_layers, decoder.num_units) == (25, 2, 1000)
    assert decoder.blank == 1000
    assert not decoder.frame_embedding
    assert not decoder.token_embedding


@pytest.mark.parametrize("name", PRESET_NAMES)
def test_config_round_trip(name, tmp_path):
    config = preset(name)
    config.save_pretrained(tmp_path)
    again = OmniConfig.from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict()
    assert again.speech_decoder == config.speech_decoder
    assert again.speech_decoder.frame_embedding
    assert again.speech_decoder.token_embedding


def test_config_takes_what_transformers_writes_itself():
    quantised = OmniConfig(quantization_config={"quant_method": "bitsandbytes"}, use_cache=False)
    assert quantised.quantization_config["quant_method"] == "bitsandbytes"


def test_unknown_preset_lists_the_known_ones():
    with pytest.raises(ConfigError, match="preset must be one of 8b, 1b, tiny, got '7b'"):
        preset("7b")


def test_8b_preset_has_the_released_size_and_our_additions():
    with torch.device("meta"):
        model = OmniModel(preset("8b"))
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS["8b"]
