import hashlib
import json
import shutil
from collections import namedtuple

import joblib
import numpy as np
import pytest
import torch
from checkpoint_tools import (
    GOLDEN,
    OMNI,
    cut_in_shards,
    edit_json,
    edit_tensors,
    same,
    small_config,
)
from safetensors.torch import load_file, save_file

from llama_omni.checkpoint import convert, convert_vocoder, load_model, random_model
from llama_omni.checkpoint.safetensors_read import read_header
from llama_omni.errors import CheckpointError, OutputError
from llama_omni.model.omni import OmniModel
from llama_omni.model.vocoder import UnitVocoder


@pytest.mark.parametrize("index", [True, False], ids=["index", "no index"])
def test_shards_convert_like_one_file(index, source, tmp_path):
    convert(source=source, output=tmp_path / "one")
    cut_in_shards(source, index=index)
    output = convert(source=source, output=tmp_path / "many", max_shard_bytes=400_000)
    assert len(list(output.glob("model-*.safetensors"))) > 3
    assert max(path.stat().st_size for path in output.glob("model-*")) < 1_500_000
    assert same(load_model(tmp_path / "one"), load_model(output))
    assert same(load_model(output), OmniModel.from_pretrained(output))


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
    with pytest.raises(CheckpointError, match=r"dtype must be auto, .* got int8"):
        convert(source=source, output=tmp_path / "none", dtype="int8")


def test_value_that_a_smaller_dtype_cannot_hold_is_refused(source, tmp_path):
    edit_tensors(source / "model.safetensors", lambda tensors: tensors["lm_head.weight"].fill_(1e6))
    with pytest.raises(CheckpointError, match=r"lm_head\.weight in .* fit torch\.float16, got 1e"):
        convert(source=source, output=tmp_path / "native", dtype=torch.float16)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_vocoder_alone_is_converted(tmp_path):
    output = convert_vocoder(vocoder=GOLDEN / "vocoder/g.pt", output=tmp_path / "voice")
    parts = GOLDEN / "vocoder/g.pt", GOLDEN / "vocoder/config.json"
    assert same(UnitVocoder.from_pretrained(output), UnitVocoder.from_fairseq(*parts))
    with pytest.raises(OutputError, match="must be a new or empty folder"):
        convert_vocoder(vocoder=GOLDEN / "vocoder/g.pt", output=output)
    with pytest.raises(CheckpointError, match=r"config\.json must be a readable"):
        convert_vocoder(vocoder=tmp_path / "nowhere", output=tmp_path / "other")
    assert not (tmp_path / "other").exists()


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


def test_vocoder_and_centres_must_fit_the_model(source, tmp_path):
    np.save(tmp_path / "km.npy", np.ones((999, 3)))
    with pytest.raises(CheckpointError, match="each of the model's 1000 units, got 999"):
        convert(source=source, output=tmp_path / "native", kmeans=tmp_path / "km.npy")
    joblib.dump(np.ones((1000, 3)), tmp_path / "km.bin")
    with pytest.raises(CheckpointError, match="run any program"):
        convert(source=source, output=tmp_path / "native", kmeans=tmp_path / "km.bin")
    vocoder = tmp_path / "g.pt"
    weights = torch.load(GOLDEN / "vocoder/g.pt", weights_only=True)
    weights["generator"]["dict.weight"] = torch.zeros(999, 16)
    torch.save(weights, vocoder)
    shutil.copyfile(GOLDEN / "vocoder/config.json", tmp_path / "config.json")
    with pytest.raises(CheckpointError, match=r"must have shape \(1000, 16\), got \(999, 16\)"):
        convert(source=source, output=tmp_path / "native", vocoder=vocoder)
    edit_json(tmp_path / "config.json", num_embeddings=999)
    with pytest.raises(CheckpointError, match=r"g\.pt must speak the model's 1000 units, got 999"):
        convert(source=source, output=tmp_path / "native", vocoder=vocoder)


def test_existing_output_is_refused_unless_empty(source, tmp_path):
    output = tmp_path / "native"
    output.mkdir()
    convert(source=source, output=output)
    before = {path.name: path.stat().st_mtime_ns for path in output.iterdir()}
    with pytest.raises(OutputError, match=r"native must be a new or empty folder, got one with"):
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


@pytest.mark.parametrize(
    "kind", [{"model_type": "qwen2"}, {"model_type": "qwen3_moe", "moe_intermediate_size": 16}],
    ids=lambda kind: kind["model_type"],
)  # fmt: skip
def test_any_language_model_comes_back(kind, tmp_path):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48, "vocab_size": 64}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "num_experts": 4, "head_dim": 8}
    tokens = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    model = random_model(small_config(**kind, **sizes, **tokens))
    model.save_pretrained(tmp_path)
    assert same(model, load_model(tmp_path))


def test_load_model_casts_weights_but_not_rope(native):
    model = load_model(native, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.speech_decoder.rotary_emb.inv_freq.dtype == torch.float32


def test_load_model_says_to_convert_a_released_folder(source):
    with pytest.raises(CheckpointError, match=r"released layout; .*llama-omni convert .*source -o"):
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
    config = json.loads((native / "config.json").read_text())
    edit_json(native / "config.json", llm=config["llm"] | {"model_type": "unheard_of"})
    refused("config.json must describe a model, got: .*unheard_of")
    edit_json(native / "config.json", llm=config["llm"] | {"hidden_size": "wide"})
    refused("config.json must describe a model, got: .*hidden_size")
    edit_json(native / "config.json", model_type="llama")
    refused("model_type in .* must be 'llama_omni', got 'llama'")
    (native / "config.json").write_text("{")
    refused("must hold JSON")
    shutil.rmtree(native)
    refused("native must be a folder")
    assert capfd.readouterr().err == ""


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
