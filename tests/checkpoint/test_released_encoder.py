import json
from pathlib import Path

import pytest
import torch
from checkpoint_tools import ENCODER, OMNI, assert_parity, drop_encoder, small_config
from safetensors.torch import load_file, save_file

from llama_omni.checkpoint import convert, load_model, random_model
from llama_omni.checkpoint.released_encoder import openai_name
from llama_omni.errors import CheckpointError
from llama_omni.model.omni import OmniModel


def hugging_face_whisper(folder: Path, like: OmniModel, prefix: str) -> None:
    """Write a Whisper in Hugging Face's layout, a decoder's tensor beside the encoder."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(like.config.encoder.to_dict()))
    tensors = {prefix + name: tensor for name, tensor in like.encoder.state_dict().items()}
    if prefix:
        tensors[prefix.replace("encoder", "decoder") + "layer_norm.weight"] = torch.ones(32)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


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


def test_every_encoder_tensor_has_openais_name():
    golden = set(load_file(OMNI / "model.safetensors"))
    names = random_model(small_config()).encoder.state_dict()
    assert {ENCODER + openai_name(name) for name in names} == {
        name for name in golden if name.startswith(ENCODER)
    }
