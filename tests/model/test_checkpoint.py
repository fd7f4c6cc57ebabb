import hashlib
import json
import shutil
from collections import namedtuple
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file
from torch.testing import assert_close

from llama_omni.errors import CheckpointError, OutputError
from llama_omni.model.checkpoint import convert, load_model, random_model
from llama_omni.model.config import OmniConfig
from llama_omni.model.omni import OmniModel
from llama_omni.model.presets import preset
from llama_omni.model.released_encoder import openai_name
from llama_omni.model.safetensors_read import read_header
from llama_omni.model.vocoder import UnitVocoder

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
    names, others = dict(one.named_buffers()), dict(other.named_buffers())
    names |= dict(one.state_dict())
    others |= dict(other.state_dict())
    return names.keys() == others.keys() and all(
        torch.equal(value, others[name]) for name, value in names.items()
    )


@pytest.fixture
def native(tmp_path):
    """A native folder of several shards."""
    random_model(small_config()).save_pretrained(tmp_path / "native", max_shard_size="100KB")
    return tmp_path / "native"


@pytest.fixture
def source(tmp_path):
    """The golden model in the released layout, ours to damage."""
    folder = tmp_path / "source"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "whisper.pt", "tokenizer.json"):
        shutil.copyfile(OMNI / name, folder / name)
    return folder


def edit_json(path: Path, **values) -> None:
    """Set keys of a JSON file; `...` takes a key away."""
    known = json.loads(path.read_text()) | values
    path.write_text(json.dumps({k: v for k, v in known.items() if v is not ...}))


def edit_tensors(path: Path, edit) -> None:
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


def hugging_face_whisper(folder: Path, like: OmniModel, prefix: str) -> None:
    """Write a Whisper in Hugging Face's layout, a decoder's tensor beside the encoder."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(like.config.encoder.to_dict()))
    tensors = {prefix + name: tensor for name, tensor in like.encoder.state_dict().items()}
    if prefix:
        tensors[prefix.replace("encoder", "decoder") + "layer_norm.weight"] = torch.ones(32)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def assert_parity(model: OmniModel) -> None:
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


@pytest.mark.parametrize("where", ["pt", "shards", "pt alone", "given", "folder", "bare folder"])
def test_converted_model_matches_reference_wherever_its_encoder_is(where, source, tmp_path):
    arguments = {}
    if where == "shards":
        (source / "whisper.pt").unlink()
        arguments["encoder_heads"] = 4
    elif where == "pt alone":
        drop_encoder(source)
    elif where == "given":
        arguments["speech_encoder"] = (source / "whisper.pt").rename(tmp_path / "other.pt")
    elif where != "pt":
        convert(source=source, output=tmp_path / "first")
        prefix = "" if where == "bare folder" else "model.encoder."
        hugging_face_whisper(tmp_path / "whisper", load_model(tmp_path / "first"), prefix)
        arguments["speech_encoder"] = tmp_path / "whisper"
        drop_encoder(source)
        (source / "whisper.pt").unlink()
    output = convert(source=source, output=tmp_path / "native", **arguments)
    assert_parity(load_model(output))
    origin = json.loads((output / "provenance.json").read_text())["speech_encoder"]
    replaced = ", in place of the copy in the shards"
    assert (
        origin
        == {
            "pt": "whisper.pt" + replaced,
            "shards": "the copy in the shards",
            "pt alone": "whisper.pt",
            "given": "other.pt" + replaced,
            "folder": "whisper",
            "bare folder": "whisper",
        }[where]
    )


def test_named_encoder_replaces_the_shards_copy_and_a_given_one_replaces_both(source, tmp_path):
    whisper = torch.load(source / "whisper.pt", weights_only=True)
    bias = whisper["model_state_dict"]["encoder.ln_post.bias"]
    bias.fill_(2.0)
    torch.save(whisper, source / "whisper.pt")
    bias.fill_(3.0)
    torch.save(whisper, tmp_path / "given.pt")
    found = {}
    for name, given in (("named", None), ("given", tmp_path / "given.pt")):
        output = convert(source=source, output=tmp_path / name, speech_encoder=given)
        found[name] = load_model(output).encoder.layer_norm.bias
    assert found["named"].eq(2.0).all()
    assert found["given"].eq(3.0).all()


def test_named_encoder_is_looked_for_beside_the_source_never_where_we_are(
    source, tmp_path, monkeypatch
):
    drop_encoder(source)
    (source / "whisper.pt").rename(tmp_path / "whisper.pt")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"must hold model\.speech_encoder\.\* .*whisper\.pt"):
        convert(source=source, output=tmp_path / "native")


@pytest.mark.parametrize("index", [True, False], ids=["index", "no index"])
def test_shards_convert_like_one_file(index, source, tmp_path):
    convert(source=source, output=tmp_path / "one")
    cut_in_shards(source, index=index)
    output = convert(source=source, output=tmp_path / "many", max_shard_bytes=400_000)
    assert len(list(output.glob("model-*.safetensors"))) > 3
    assert max(path.stat().st_size for path in output.glob("model-*")) < 1_500_000
    assert same(load_model(tmp_path / "one"), load_model(output))
    assert same(load_model(output), OmniModel.from_pretrained(output))


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


def test_dtype_is_that_of_the_configuration_or_the_one_asked_for(source, tmp_path):
    exact = load_model(convert(source=source, output=tmp_path / "exact", dtype="auto"))
    half = load_model(convert(source=source, output=tmp_path / "half", dtype="bfloat16"))
    assert (exact.dtype, half.dtype) == (torch.float32, torch.bfloat16)
    assert same(exact.to(torch.bfloat16).llm.model.layers, half.llm.model.layers)
    edit_json(source / "config.json", torch_dtype="float16")
    released = convert(source=source, output=tmp_path / "released")
    assert {tensor.format for tensor in read_header(released / "model.safetensors").values()} == {
        "F16"
    }
    with pytest.raises(CheckpointError, match="dtype must be auto, .* got int8"):
        convert(source=source, output=tmp_path / "none", dtype="int8")


def test_value_that_a_smaller_dtype_cannot_hold_is_refused(source, tmp_path):
    edit_tensors(source / "model.safetensors", lambda tensors: tensors["lm_head.weight"].fill_(1e6))
    with pytest.raises(CheckpointError, match=r"lm_head\.weight in .* fit torch\.float16, got 1e"):
        convert(source=source, output=tmp_path / "native", dtype=torch.float16)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


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


def test_output_holds_tokenizer_vocoder_centres_and_provenance(source, tmp_path):
    np.save(tmp_path / "km.npy", np.ones((1000, 3)))
    output = convert(
        source=source,
        output=tmp_path / "deep" / "native",
        vocoder=GOLDEN / "vocoder/g.pt",
        kmeans=tmp_path / "km.npy",
    )
    vocoder = UnitVocoder.from_pretrained(output / "vocoder")
    parts = GOLDEN / "vocoder/g.pt", GOLDEN / "vocoder/config.json"
    assert same(vocoder, UnitVocoder.from_fairseq(*parts))
    assert np.load(output / "kmeans.npy").dtype == np.float32
    assert (output / "tokenizer.json").read_bytes() == (OMNI / "tokenizer.json").read_bytes()
    provenance = json.loads((output / "provenance.json").read_text())
    hashes = {item["name"]: item["sha256"] for item in provenance["inputs"]}
    assert hashes.keys() == {
        "source/config.json",
        "source/model.safetensors",
        "source/whisper.pt",
        "source/tokenizer.json",
        "vocoder/g.pt",
        "vocoder/config.json",
        f"{tmp_path.name}/km.npy",
    }
    wanted = hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest()
    assert hashes["source/model.safetensors"] == wanted
    assert provenance["versions"].keys() >= {"python", "torch", "transformers"}
    assert oct(output.stat().st_mode & 0o777) == oct(source.stat().st_mode & 0o777)


def test_progress_counts_every_byte_once(source, tmp_path):
    calls = []
    output = tmp_path / "native"
    convert(source=source, output=output, progress=lambda *call: calls.append(call))
    done = [call[0] for call in calls]
    assert done == sorted(done)
    assert {call[1] for call in calls} == {done[-1]}
    read = sum(path.stat().st_size for path in source.iterdir())
    written = sum(t.end - t.start for t in read_header(output / "model.safetensors").values())
    assert done[-1] == read + written


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


def test_missing_files_are_named(source, tmp_path):
    with pytest.raises(CheckpointError, match="nowhere must be a folder"):
        convert(source=tmp_path / "nowhere", output=tmp_path / "native")
    with pytest.raises(CheckpointError, match=r"none\.pt must be a whole \.pt file .*No such file"):
        convert(source=source, output=tmp_path / "native", speech_encoder=tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match=r"config\.json must come with the vocoder"):
        convert(source=source, output=tmp_path / "native", vocoder_config=source / "config.json")
    (source / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json or tokenizer\.model, got neither"):
        convert(source=source, output=tmp_path / "native")
    (source / "model.safetensors").rename(source / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"got none \(not read: pytorch_model\.bin"):
        convert(source=source, output=tmp_path / "native")
    (source / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json must be a readable file"):
        convert(source=source, output=tmp_path / "native")


@pytest.mark.parametrize("index", [True, False], ids=["index", "no index"])
def test_missing_shard_is_named(index, source, tmp_path):
    shard = cut_in_shards(source, index=index)[1]
    shard.unlink()
    with pytest.raises(CheckpointError, match=rf"{shard.name} must exist.* got no such file"):
        convert(source=source, output=tmp_path / "native")


def test_index_that_does_not_fit_its_shards_is_refused(source, tmp_path):
    shards = cut_in_shards(source, index=True)
    index = source / "model.safetensors.index.json"
    edit_tensors(shards[0], lambda tensors: tensors.pop("lm_head.weight"))
    with pytest.raises(
        CheckpointError, match=rf"{shards[0].name} must hold tensor lm_head\.weight"
    ):
        convert(source=source, output=tmp_path / "native")
    shutil.copyfile(shards[1], shards[0])
    with pytest.raises(CheckpointError, match=r"must be in one file, got model-00001.* and model-"):
        convert(source=source, output=tmp_path / "native")
    edit_json(index, weight_map={"lm_head.weight": "../model.safetensors"})
    with pytest.raises(CheckpointError, match=r"name files beside it, got '\.\./model"):
        convert(source=source, output=tmp_path / "native")
    index.write_text("[]")
    with pytest.raises(CheckpointError, match="must hold a JSON object, got list"):
        convert(source=source, output=tmp_path / "native")


def test_encoder_that_is_no_whisper_is_refused(source, tmp_path):
    def refused(words, **arguments):
        with pytest.raises(CheckpointError, match=words):
            convert(source=source, output=tmp_path / "native", **arguments)

    path = tmp_path / "whisper.pt"
    whisper = torch.load(source / "whisper.pt", weights_only=True)
    weights = whisper["model_state_dict"]
    whole = (source / "whisper.pt").read_bytes()
    path.write_bytes(whole[:-1000])
    refused(r"whisper\.pt must be a whole \.pt file", speech_encoder=path)
    torch.save({"dims": {}, "state": 0}, path)
    refused("must hold Whisper's dims and model_state_dict", speech_encoder=path)
    torch.save(whisper | {"dims": whisper["dims"] | {"n_mels": None}}, path)
    refused("dims in .* must hold n_mels, got None", speech_encoder=path)
    bias = weights.pop("encoder.blocks.1.mlp.0.bias")
    torch.save(whisper, path)
    refused(r"whisper\.pt must hold tensor encoder\.blocks\.1\.mlp\.0\.bias", speech_encoder=path)
    weights["encoder.blocks.1.mlp.0.bias"] = bias[1:]
    torch.save(whisper, path)
    refused(
        r"mlp\.0\.bias in .*whisper\.pt must have shape \(128,\), got \(127", speech_encoder=path
    )
    weights["encoder.blocks.1.mlp.0.bias"] = bias.int()
    torch.save(whisper, path)
    refused(r"mlp\.0\.bias in .* must be F32, F16, BF16, got torch\.int32", speech_encoder=path)
    refused("model_type in .* must be 'whisper', got 'omni_speech", speech_encoder=source)
    (source / "whisper.pt").unlink()
    refused("a multiple of 64 wide, .* got 32; give the Whisper itself")


def test_encoder_file_never_runs_code(source, tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"dims": Trap(), "model_state_dict": {}}, source / "whisper.pt")
    with pytest.raises(CheckpointError, match="that loads without running code, got"):
        convert(source=source, output=tmp_path / "native", trust_pickle=True)
    assert not (tmp_path / "ran").exists()


def test_openai_checkpoint_of_the_old_format_is_read_too(source, tmp_path):
    whisper = torch.load(source / "whisper.pt", weights_only=True)
    torch.save(whisper, source / "whisper.pt", _use_new_zipfile_serialization=False)
    assert_parity(load_model(convert(source=source, output=tmp_path / "native")))


def test_vocoder_and_centres_must_fit_the_model(source, tmp_path):
    np.save(tmp_path / "km.npy", np.ones((999, 3)))
    with pytest.raises(CheckpointError, match="each of the model's 1000 units, got 999"):
        convert(source=source, output=tmp_path / "native", kmeans=tmp_path / "km.npy")
    joblib.dump(np.ones((1000, 3)), tmp_path / "km.bin")
    with pytest.raises(CheckpointError, match="run any program"):
        convert(source=source, output=tmp_path / "native", kmeans=tmp_path / "km.bin")
    vocoder, edit = GOLDEN / "vocoder/g.pt", {"num_embeddings": 999}
    values = json.loads((GOLDEN / "vocoder/config.json").read_text()) | edit
    (tmp_path / "v.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"must have shape \(999, 16\), got \(1000, 16\)"):
        convert(source=source, output=tmp_path / "native", vocoder=vocoder,
                vocoder_config=tmp_path / "v.json")  # fmt: skip


def test_existing_output_is_refused_unless_empty(source, tmp_path):
    output = tmp_path / "native"
    output.mkdir()
    convert(source=source, output=output)
    before = {path.name: path.stat().st_mtime_ns for path in output.iterdir()}
    with pytest.raises(OutputError, match="native must be a new or empty folder, got one with"):
        convert(source=source, output=output)
    assert before == {path.name: path.stat().st_mtime_ns for path in output.iterdir()}
    with pytest.raises(
        OutputError, match=r"config\.json must be a new or empty folder, got a file"
    ):
        convert(source=source, output=output / "config.json")
    with pytest.raises(OutputError, match="new must be writable, got: "):
        convert(source=source, output=output / "config.json" / "new")


def test_full_disk_is_found_before_anything_is_written(source, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**9, 10**9 - 10**6, 10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OutputError, match=r"bytes free, got 1,000,000"):
        convert(source=source, output=tmp_path / "native")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError], ids=["Ctrl-C", "error"])
def test_interrupted_conversion_leaves_nothing_and_says_so(error, source, tmp_path, caplog):
    def interrupt(done, total, file):
        if done > total / 3:
            assert len(list(tmp_path.glob(".native.*.partial"))) == 1
            raise error

    with pytest.raises(error):
        convert(source=source, output=tmp_path / "native", progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    said = "conversion interrupted, nothing was written" in caplog.text
    assert said == (error is KeyboardInterrupt)


def test_what_a_killed_conversion_left_is_pointed_out(source, tmp_path, caplog):
    (tmp_path / ".native.123.partial").mkdir()
    convert(source=source, output=tmp_path / "native")
    assert f"delete it: path={tmp_path / '.native.123.partial'}" in caplog.text


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_saved_model_comes_back_bit_for_bit_from_several_shards(tied, tmp_path):
    model = random_model(small_config(tie_word_embeddings=tied), seed=3)
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    for loaded in (load_model(tmp_path), OmniModel.from_pretrained(tmp_path)):
        assert same(model, loaded)
        embed, head = loaded.get_input_embeddings(), loaded.get_output_embeddings()
        assert (embed.weight is head.weight) is tied
        assert not loaded.training


def test_load_model_casts_weights_but_not_rope(native):
    model = load_model(native, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.speech_decoder.rotary_emb.inv_freq.dtype == torch.float32


def test_load_model_says_to_convert_a_released_folder(source):
    with pytest.raises(CheckpointError, match="released layout; .*llama-omni convert .*source -o"):
        load_model(source)


def test_load_model_names_what_is_wrong(native, capfd):
    def refused(words):
        with pytest.raises(CheckpointError, match=words) as caught:
            load_model(native)
        assert "\n" not in str(caught.value)

    shard = sorted(native.glob("model-*.safetensors"))[1]
    tensors = load_file(shard)
    name = min(tensors)
    whole = shard.read_bytes()
    refused_edits = {
        rf"{shard.name} must hold tensor {name}": {},
        rf"{name} in .*{shard.name} must be F32, F16, BF16, got I8": {name: tensors[name].char()},
        rf"{name} in .*{shard.name} must have shape": {name: tensors[name][1:].clone()},
        rf"{shard.name} must hold no tensor .* no use for, got extra": {
            name: tensors[name],
            "extra": torch.ones(1),
        },
    }
    for words, edit in refused_edits.items():
        rest = {key: tensor for key, tensor in tensors.items() if key != name}
        save_file(rest | edit, shard, {"format": "pt"})
        refused(words)
    shard.write_bytes(whole[:-7])
    refused(rf"{shard.name} must be {len(whole)} bytes long, .* truncated")
    shard.unlink()
    refused(rf"{shard.name} must exist")
    index = native / "model.safetensors.index.json"
    names = json.loads(index.read_text())["weight_map"]
    lost = [key for key, file in names.items() if file == shard.name]
    edit_json(index, weight_map={key: file for key, file in names.items() if key not in lost})
    more = rf" and {len(lost) - 1} more" if len(lost) > 1 else ""
    refused(rf"native must hold tensor {min(lost)}{more}, got none")
    edit_json(native / "config.json", model_type="llama")
    refused("model_type in .* must be 'llama_omni', got 'llama'")
    (native / "config.json").write_text("{")
    refused("must hold JSON")
    shutil.rmtree(native)
    refused("native must be a folder")
    assert capfd.readouterr().err == ""


SMALL = save({"a": torch.ones(3), "b": torch.ones(2, 2, dtype=torch.float16)})


@given(st.integers(0, len(SMALL) - 1))
def test_file_cut_anywhere_is_refused(tmp_path_factory, length):
    path = tmp_path_factory.mktemp("cut") / "model.safetensors"
    path.write_bytes(SMALL[:length])
    with pytest.raises(CheckpointError, match=r"model\.safetensors must"):
        read_header(path)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b"[]", "must have a safetensors header"),
        (b"{", "must have a safetensors header"),
        (b"[" * 100_000, "must have a safetensors header"),
        (b'{"a": {"dtype": "F32"}}', "must have a safetensors header"),
        (b'{"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}', "a in .* got F4"),
        (b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}', "must fill 8 bytes"),
        (b'{"a": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}}', "must fill"),
        (b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}', "must begin at byte"),
    ],
    ids=["list", "not json", "deep", "no shape", "unknown dtype", "size", "negative", "gap"],
)
def test_bad_header_is_refused(header, words, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 8)
    with pytest.raises(CheckpointError, match=words):
        read_header(path)


def test_file_with_something_behind_it_is_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(SMALL + b"\0")
    with pytest.raises(CheckpointError, match="something follows"):
        read_header(tmp_path / "model.safetensors")


def test_every_encoder_tensor_has_openais_name():
    golden = set(load_file(OMNI / "model.safetensors"))
    names = random_model(small_config()).encoder.state_dict()
    assert {ENCODER + openai_name(name) for name in names} == {
        name for name in golden if name.startswith(ENCODER)
    }


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
