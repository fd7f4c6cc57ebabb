import pytest
import torch
from checkpoint_tools import edit_json, edit_tensors

from llama_omni.checkpoint import convert, load_model
from llama_omni.checkpoint.safetensors_read import read_header
from llama_omni.errors import CheckpointError


def rename_tensor(tensors):
    tensors["speech_generator.input_project.bias"] = tensors.pop("speech_generator.input_proj.bias")


def add_tensor(tensors):
    tensors["model.other.weight"] = torch.ones(2, 3)


def shorten_tensor(tensors):
    name = "model.speech_projector.linear1.bias"
    tensors[name] = tensors[name][:-1].clone()


def change_dtype(tensors):
    tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.int8)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (
            rename_tensor,
            r"source must hold tensor speech_generator\.input_proj\.bias of shape \(64,",
        ),
        (
            add_tensor,
            r"model\.safetensors must hold only .* got model\.other\.weight of .*\(2, 3\)",
        ),
        (
            shorten_tensor,
            r"linear1\.bias in .*safetensors must have shape \(2048,\), got \(2047,\)",
        ),
        (change_dtype, r"model\.norm\.weight in .*safetensors must be F32, F16, BF16, got I8"),
    ],
    ids=["missing", "extra", "misshapen", "wrong dtype"],
)
def test_wrong_tensor_is_named_before_anything_is_written(edit, words, source, tmp_path):
    edit_tensors(source / "model.safetensors", edit)
    with pytest.raises(CheckpointError, match=words):
        convert(source=source, output=tmp_path / "native")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model_type": "llama"}, "must hold a released Omni model .* got 'llama'"),
        ({"model_type": "llama_omni"}, "must hold a released Omni model .* got 'llama_omni'"),
        ({"speech_projector_type": "conv"}, "speech_projector_type in .* 'linear', got 'conv'"),
        ({"speech_generator_type": "ar"}, "speech_generator_type in .* 'ctc', got 'ar'"),
        ({"speech_encoder_type": "beats"}, "speech_encoder_type in .* 'whisper', got 'beats'"),
        ({"speech_normalize": True}, "speech_normalize in .* must be False, got True"),
        ({"ctc_decoder_config": "(2,64,4)"}, r"ctc_decoder_config in .* got '\(2,64,4\)'"),
        ({"ctc_decoder_config": "(2,64,4,__import__('os'))"}, "ctc_decoder_config in .* must be"),
        ({"ctc_decoder_config": "(2,64,5,128)"}, "num_heads times an even number, got 64 for 5"),
        ({"hidden_size": ...}, "hidden_size in .* must be a whole number, got None"),
        ({"unit_vocab_size": "many"}, "unit_vocab_size in .* a whole number, got 'many'"),
        ({"num_attention_heads": 5}, "config.json must describe a Llama, got: .*multiple"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope_type in .* llama3, got 'yarn'"),
        ({"rope_scaling": "llama3"}, "rope_scaling in .* must be an object, got 'llama3'"),
        (
            {"tokenizer_model_max_length": "all"},
            "tokenizer_model_max_length in .* or null, got 'all'",
        ),
        ({"speech_encoder_hidden_size": 48}, "encoder's width 32, got 48"),
        ({"torch_dtype": "int4"}, "torch_dtype in .* got 'int4'"),
        ({"num_hidden_layers": 4}, r"must hold tensor model\.layers\.3\..* got none"),
        ({"num_hidden_layers": 2}, r"must hold only .* got model\.layers\.2\."),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_configuration_that_cannot_be_converted_is_refused(values, words, source, tmp_path):
    edit_json(source / "config.json", **values)
    with pytest.raises(CheckpointError, match=words):
        convert(source=source, output=tmp_path / "native")


def test_released_configuration_becomes_ours(source, tmp_path):
    config = load_model(convert(source=source, output=tmp_path / "native")).config
    assert (config.prompt, config.ctc_states, config.pad_to_window) == ("llama3", "labelled", True)
    assert (config.max_positions, config.adapter.stack) == (2048, 5)
    decoder = config.speech_decoder
    assert (decoder.num_layers, decoder.hidden_size, decoder.num_heads) == (2, 64, 4)
    assert (decoder.intermediate_size, decoder.upsample_factor, decoder.num_units) == (
        128,
        25,
        1000,
    )
    assert not decoder.frame_embedding
    assert not decoder.token_embedding
    assert decoder.rope_parameters == config.llm.rope_parameters
    assert decoder.rope_parameters["rope_type"] == "llama3"
    assert decoder.rms_norm_eps == config.llm.rms_norm_eps
    assert config.stop_token_ids == (297, 298, 299)


def test_speech_decoder_takes_its_own_head_width_and_generation_config_the_stop_ids(
    source, tmp_path
):
    edit_json(source / "config.json", head_dim=16, ctc_decoder_config="(2, 64, 8, 128)")
    (source / "generation_config.json").write_text('{"eos_token_id": [7, 8], "do_sample": true}')
    output = convert(source=source, output=tmp_path / "native")
    model = load_model(output)
    assert model.config.llm.head_dim == 16
    assert model.speech_decoder.layers[0].self_attn.head_dim == 8
    assert model.config.stop_token_ids == (7, 8)
    assert (output / "generation_config.json").is_file()


def test_no_limit_of_length_means_the_llms(source, tmp_path):
    edit_json(source / "config.json", tokenizer_model_max_length=None)
    output = convert(source=source, output=tmp_path / "native")
    assert load_model(output).config.max_positions == 131072


@pytest.mark.parametrize("stored", [True, False], ids=["head stored twice", "head stored once"])
def test_tied_embeddings_are_written_once(stored, source, tmp_path):
    edit_json(source / "config.json", tie_word_embeddings=True)

    def edit(tensors):
        del tensors["lm_head.weight"]
        if stored:
            tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    edit_tensors(source / "model.safetensors", edit)
    model = load_model(convert(source=source, output=tmp_path / "native"))
    assert "llm.lm_head.weight" not in read_header(tmp_path / "native" / "model.safetensors")
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


def test_tied_embeddings_that_differ_are_refused(source, tmp_path):
    edit_json(source / "config.json", tie_word_embeddings=True)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight .* must equal model\.embed_tokens"):
        convert(source=source, output=tmp_path / "native")
