"""HuBERT and encoder features, on small random weights in the published layouts."""

import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import HubertConfig, HubertForCTC, HubertModel, WhisperConfig

from llama_omni.data.units import UnitExtractor, fit_units
from llama_omni.errors import CheckpointError, ConfigError, InputError
from llama_omni.model.encoder import SpeechEncoder, log_mel
from llama_omni.model.features import UnitFeatures, features_from
from llama_omni.model.features_encoder import EncoderFeatures
from llama_omni.model.features_hubert import HubertFeatures

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "conv_dim": (8,) * 7,  # kernels and strides are the published ones
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}
LARGE = {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True}


def noise(num_samples, seed=0):
    return 0.1 * torch.randn(num_samples, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", params=[{}, LARGE], ids=["base", "large"])
def hubert(request, tmp_path_factory):
    """Return a folder with a small HuBERT, and the model."""
    torch.manual_seed(0)
    model = HubertModel(HubertConfig(**SIZES, **request.param)).eval()
    folder = tmp_path_factory.mktemp("hubert")
    model.save_pretrained(folder)
    return folder, model


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Return features of a small HuBERT base, layer 2."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("base")
    HubertModel(HubertConfig(**SIZES)).save_pretrained(folder)
    return HubertFeatures.from_pretrained(folder, layer=2)


@pytest.mark.parametrize("layer", range(4))
def test_hubert_features_are_the_hidden_states_of_the_layer(hubert, layer):
    folder, model = hubert
    sound = noise(16_000)
    with torch.no_grad():
        expected = model(sound[None], output_hidden_states=True).hidden_states
    assert len(expected) == 4
    features = HubertFeatures.from_pretrained(folder, layer=layer)
    assert isinstance(features, UnitFeatures)
    assert len(features.model.encoder.layers) == layer  # nothing above is computed
    frames = features.extract(sound)
    assert frames.shape == (49, features.dim) == (features.num_frames(16_000), 16)
    torch.testing.assert_close(frames, expected[layer][0])


def test_hubert_folder_with_a_head_serves_too(tmp_path):
    torch.manual_seed(1)
    model = HubertForCTC(HubertConfig(**SIZES, vocab_size=5)).eval()
    model.save_pretrained(tmp_path)
    features = HubertFeatures.from_pretrained(tmp_path, layer=3)
    with torch.no_grad():
        expected = model.hubert(noise(4000)[None]).last_hidden_state[0]
    torch.testing.assert_close(features.extract(noise(4000)), expected)


@settings(max_examples=20, deadline=None)
@given(num_samples=st.integers(0, 4000), chunk=st.integers(400, 2000))
def test_hubert_frames_are_those_of_each_chunk_alone(base, num_samples, chunk):
    chunked = HubertFeatures(base.model, source="here", layer=2, chunk_samples=chunk)
    sound = noise(num_samples)
    frames = chunked.extract(sound)
    pieces = [base.extract(piece) for piece in sound.split(chunk)]
    torch.testing.assert_close(frames, torch.cat(pieces))
    expected = sum(max((len(piece) - 400) // 320 + 1, 0) for piece in sound.split(chunk))
    assert len(frames) == expected == chunked.num_frames(num_samples)


def test_hubert_chunks_of_the_release_lose_nothing_but_the_seam(base):
    assert base.chunk_samples == 1_600_000
    assert base.num_frames(1_600_000) == 4999
    assert base.num_frames(1_600_399) == 4999  # the last 399 samples give no frame
    assert base.num_frames(1_600_400) == 5000


def test_hubert_normalises_the_waveform_where_asked(base):
    plain = HubertFeatures.from_pretrained(base.source, layer=2)
    normal = HubertFeatures.from_pretrained(base.source, layer=2, normalise=True)
    sound = noise(8000) + 0.2
    ready = (sound - sound.mean()) / (sound.var(correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(normal.extract(sound), plain.extract(ready), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(normal.extract(sound), plain.extract(sound), atol=1e-3)
    assert normal.extract(torch.zeros(0)).shape == (0, 16)


def test_hubert_batch_is_its_rows(base):
    rows = torch.stack([noise(4000), noise(4000, 1)])
    frames, counts = base.extract_batch(rows, torch.tensor([4000, 1000]))
    assert counts.tolist() == [12, 2]
    torch.testing.assert_close(frames[0], base.extract(rows[0]))
    torch.testing.assert_close(frames[1, :2], base.extract(rows[1, :1000]))
    assert not frames[1, 2:].any()
    with pytest.raises(InputError, match="lengths must be 0 to 4000 samples"):
        base.extract_batch(rows, torch.tensor([4000, 4001]))


def test_hubert_is_built_again_from_json_and_other_weights_are_refused(base, tmp_path):
    description = json.loads(json.dumps(base.describe()))
    again = features_from(description)
    assert torch.equal(again.extract(noise(4000)), base.extract(noise(4000)))
    torch.manual_seed(5)
    HubertModel(HubertConfig(**SIZES)).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="must hold the weights that the units were fitted"):
        features_from(description, source=str(tmp_path))
    with pytest.raises(ConfigError, match="fields of 'hubert'"):
        features_from({"kind": "hubert", "source": base.source, "layer": 1, "size": 3})
    with pytest.raises(ConfigError, match="fields of 'hubert', got: 'source'"):
        features_from({"kind": "hubert", "layer": 1})


def test_folder_is_found_from_another_working_directory_and_its_loss_is_told(
    base, tmp_path, monkeypatch
):
    folder = shutil.copytree(base.source, tmp_path / "hubert")
    monkeypatch.chdir(tmp_path)
    description = HubertFeatures.from_pretrained("hubert", layer=1).describe()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert features_from(description).describe() == description
    folder.rename(tmp_path / "moved")
    with pytest.raises(CheckpointError, match=r"found none; if it moved: .* has --source"):
        features_from(description)
    assert features_from(description, source="../moved").dim == base.dim


@pytest.mark.parametrize("layer", [-1, 4])
def test_layer_that_the_model_lacks_is_refused(base, layer):
    with pytest.raises(ConfigError, match=rf"layer must be 0 to 3, .* got {layer}"):
        HubertFeatures.from_pretrained(base.source, layer=layer)


def test_impossible_hubert_is_refused(base, tmp_path):
    with pytest.raises(ConfigError, match="chunk_samples must be at least 400, got 399"):
        HubertFeatures.from_pretrained(base.source, layer=1, chunk_samples=399)
    with pytest.raises(CheckpointError, match=r"no config\.json in it"):
        HubertFeatures.from_pretrained(tmp_path, layer=1)
    odd = HubertConfig(**SIZES | {"conv_dim": (8,) * 2}, conv_kernel=(10, 3), conv_stride=(5, 2))
    HubertModel(odd).save_pretrained(tmp_path / "odd")
    with pytest.raises(ConfigError, match="must multiply to 320, got 10"):
        HubertFeatures.from_pretrained(tmp_path / "odd", layer=1)
    (tmp_path / "config.json").write_text('{"model_type": "wav2vec2"}')
    with pytest.raises(CheckpointError, match="must be 'hubert', got 'wav2vec2'"):
        HubertFeatures.from_pretrained(tmp_path, layer=1)


def test_damaged_hubert_is_refused(base, tmp_path):
    HubertModel(HubertConfig(**SIZES)).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    name = "encoder.layers.0.attention.k_proj.weight"
    save_file({key: value for key, value in tensors.items() if key != name}, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=f"must hold tensor {name}, got none"):
        HubertFeatures.from_pretrained(tmp_path, layer=1)
    save_file(tensors | {name: torch.zeros(2, 2)}, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"must have shape \(16, 16\), got \(2, 2\)"):
        HubertFeatures.from_pretrained(tmp_path, layer=1)
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(CheckpointError, match="must hold the weights of a HuBERT"):
        HubertFeatures.from_pretrained(tmp_path, layer=1)
    file.unlink()
    with pytest.raises(CheckpointError, match="must hold the weights of a HuBERT"):
        HubertFeatures.from_pretrained(tmp_path, layer=1)


def test_units_are_fitted_on_hubert_and_loaded(base, tmp_path):
    sounds = [noise(16_000, seed).numpy() for seed in range(3)]
    extractor, report = fit_units(sounds, base, num_units=8)
    assert report.num_frames == 147
    extractor.save(tmp_path, report)
    loaded = UnitExtractor.load(tmp_path)
    assert np.array_equal(loaded.units(sounds[0]).frames, extractor.units(sounds[0]).frames)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """Return a folder with a small encoder alone, and the encoder."""
    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=16, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=24,
        num_mel_bins=20, max_source_positions=50,
    )  # fmt: skip
    model = SpeechEncoder(config).eval()
    folder = tmp_path_factory.mktemp("encoder")
    model.save_pretrained(folder)
    return folder, model


@settings(max_examples=20, deadline=None)
@given(num_samples=st.integers(0, 40_000))
def test_encoder_features_are_the_encoders_output_window_by_window(encoder, num_samples):
    folder, model = encoder
    features = EncoderFeatures(model, source=str(folder))
    sound = noise(num_samples)
    frames = features.extract(sound)
    assert frames.shape == (features.num_frames(num_samples), 16)
    with torch.no_grad():
        pieces = [
            model(log_mel(piece[None], num_mels=20))[0]
            for piece in sound.split(16_000)
            if len(piece) >= 400
        ]
    torch.testing.assert_close(frames, torch.cat([torch.zeros(0, 16), *pieces]))


@pytest.mark.parametrize("prefix", ["", "encoder.", "model.encoder."])
def test_encoder_is_found_by_its_names(encoder, tmp_path, prefix):
    folder, model = encoder
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    tensors = {
        prefix + name: value for name, value in load_file(folder / "model.safetensors").items()
    }
    others = {"decoder.weight": torch.zeros(1)} if prefix else {}
    save_file(tensors | others, tmp_path / "model.safetensors")
    features = EncoderFeatures.from_pretrained(tmp_path)
    expected = EncoderFeatures(model, source="").extract(noise(9000))
    torch.testing.assert_close(features.extract(noise(9000)), expected)
    again = features_from(json.loads(json.dumps(features.describe())))
    assert isinstance(again, UnitFeatures)
    assert torch.equal(again.extract(noise(9000)), features.extract(noise(9000)))
    frames, counts = again.extract_batch(noise(9000)[None], torch.tensor([3200]))
    assert (counts.tolist(), frames.shape) == ([10], (1, 10, 16))


def test_damaged_encoder_is_refused(encoder, tmp_path):
    with pytest.raises(CheckpointError, match="readable config"):
        EncoderFeatures.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes((encoder[0] / "config.json").read_bytes())
    with pytest.raises(CheckpointError, match="speech encoder's tensors, got none"):
        EncoderFeatures.from_pretrained(tmp_path)
    tensors = load_file(encoder[0] / "model.safetensors")
    tensors.pop("conv2.bias")
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"conv2\.bias"):
        EncoderFeatures.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"12345678901234")
    with pytest.raises(CheckpointError, match="whole safetensors"):
        EncoderFeatures.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match="got 'bert'"):
        EncoderFeatures.from_pretrained(tmp_path)


def test_encoder_of_a_whole_model_serves(golden_model, tmp_path):
    golden_model.save_pretrained(tmp_path)
    features = EncoderFeatures.from_pretrained(tmp_path)
    frames = features.extract(noise(8000))
    assert frames.shape == (25, golden_model.config.encoder.d_model)
