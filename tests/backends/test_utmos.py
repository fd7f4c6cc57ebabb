"""UTMOS: the released layout by name and shape, its features, its head, and what is refused.

The released weights are no part of the tests: random ones, written under the released names, are.
"""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F
from transformers import Wav2Vec2Config, Wav2Vec2Model

from llama_omni.backends import utmos_network
from llama_omni.backends.utmos import LONGEST, Utmos
from llama_omni.backends.utmos_network import UtmosNetwork, load_utmos, their_name
from llama_omni.errors import AudioError, CheckpointError
from llama_omni.evaluate.quality_model import QualityModel

SMALL = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
STRIDES = (5, 2, 2, 2, 2, 2, 2)
PREFIX = "wav2vec2."


@pytest.fixture
def small(monkeypatch):
    """`UtmosNetwork` with a small wav2vec 2.0, all else as released."""
    config = Wav2Vec2Config(**SMALL)
    monkeypatch.setattr(utmos_network, "Wav2Vec2Config", lambda: config)
    return config


@pytest.fixture
def released(small):
    """Random tensors under the released names."""
    torch.manual_seed(0)
    network = UtmosNetwork()
    return {
        their_name(name): torch.randn_like(tensor) * 0.1 + (1.0 if "weight_g" in name else 0.0)
        for name, tensor in network.state_dict().items()
    }


@pytest.fixture
def sound():
    return (np.random.default_rng(0).normal(0, 0.1, 4321)).astype(np.float32)


def features_by_hand(w, sound):
    """fairseq's wav2vec 2.0 base on the released tensors, written out."""
    x = torch.from_numpy(sound)[None, None]  # (1, 1, S)
    for layer, stride in enumerate(STRIDES):
        name = f"feature_extractor.conv_layers.{layer}"
        x = F.conv1d(x, w[f"{name}.0.weight"], stride=stride)
        if layer == 0:  # a group of its own for each channel, over all of time
            mean, var = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
            x = (x - mean) / (var + 1e-5).sqrt()
            x = x * w[f"{name}.2.weight"][:, None] + w[f"{name}.2.bias"][:, None]
        x = F.gelu(x)
    x = norm(w, "layer_norm", x.transpose(1, 2)[0])  # (F, 16)
    x = linear(w, "post_extract_proj", x)  # (F, D)
    g, v = w["encoder.pos_conv.0.weight_g"], w["encoder.pos_conv.0.weight_v"]
    kernel = g * v / v.pow(2).sum((0, 1), keepdim=True).sqrt()
    bias, width = w["encoder.pos_conv.0.bias"], kernel.shape[-1]
    places = F.conv1d(x.T[None], kernel, bias, padding=width // 2, groups=4)[0, :, :-1]
    x = norm(w, "encoder.layer_norm", x + F.gelu(places).T)
    for layer in range(SMALL["num_hidden_layers"]):
        name = f"encoder.layers.{layer}"
        x = norm(w, f"{name}.self_attn_layer_norm", x + attend(w, f"{name}.self_attn", x))
        inner = linear(w, f"{name}.fc2", F.gelu(linear(w, f"{name}.fc1", x)))
        x = norm(w, f"{name}.final_layer_norm", x + inner)
    return x


def attend(w, name, x):
    heads = SMALL["num_attention_heads"]
    q, k, v = (
        linear(w, f"{name}.{part}_proj", x).unflatten(-1, (heads, -1)).transpose(0, 1)
        for part in "qkv"
    )  # (heads, F, D / heads)
    weights = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1)
    return linear(w, f"{name}.out_proj", (weights @ v).transpose(0, 1).flatten(1))


def norm(w, name, x):
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])


def linear(w, name, x):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def head_by_hand(w, features):
    """The rest of UTMOS in NumPy: both LSTM directions step by step, then the projection."""
    w = {name: tensor.double().numpy() for name, tensor in w.items()}
    rows = np.concatenate([w["domain_emb"], w["judge_emb"]], 1)  # (1, 256)
    x = np.concatenate([features.double().numpy(), rows.repeat(len(features), 0)], 1)
    both = [lstm(w, x, ""), lstm(w, x[::-1], "_reverse")[::-1]]
    hidden = np.maximum(
        np.concatenate(both, 1) @ w["projection.0.weight"].T + w["projection.0.bias"], 0
    )
    return float((hidden @ w["projection.2.weight"].T + w["projection.2.bias"]).mean() * 2 + 3)


def lstm(w, x, suffix):
    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    h, c, found = np.zeros(512), np.zeros(512), []
    for row in x:
        z = w[f"blstm.weight_ih_l0{suffix}"] @ row + w[f"blstm.bias_ih_l0{suffix}"]
        z = z + w[f"blstm.weight_hh_l0{suffix}"] @ h + w[f"blstm.bias_hh_l0{suffix}"]
        i, f, g, o = np.split(z, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        found.append(h)
    return np.array(found)


def save(tensors, path):
    torch.save(tensors, path) if path.suffix == ".pt" else save_file(tensors, path)
    return path


# The released layout


def test_full_size_has_the_released_names_and_shapes():
    with torch.device("meta"):
        network = UtmosNetwork()
    shapes = {their_name(name): tuple(t.shape) for name, t in network.state_dict().items()}
    assert len(shapes) == 2 + 19 + 12 * 16 + 8 + 4
    layer = "wav2vec2.encoder.layers.11"
    expected = {
        "domain_emb": (1, 128),
        "judge_emb": (1, 128),
        "wav2vec2.mask_emb": (768,),
        "wav2vec2.feature_extractor.conv_layers.0.0.weight": (512, 1, 10),
        "wav2vec2.feature_extractor.conv_layers.0.2.bias": (512,),
        "wav2vec2.feature_extractor.conv_layers.6.0.weight": (512, 512, 2),
        "wav2vec2.layer_norm.weight": (512,),
        "wav2vec2.post_extract_proj.weight": (768, 512),
        "wav2vec2.encoder.pos_conv.0.bias": (768,),
        "wav2vec2.encoder.pos_conv.0.weight_g": (1, 1, 128),
        "wav2vec2.encoder.pos_conv.0.weight_v": (768, 48, 128),
        "wav2vec2.encoder.layer_norm.bias": (768,),
        f"{layer}.self_attn.q_proj.weight": (768, 768),
        f"{layer}.self_attn_layer_norm.weight": (768,),
        f"{layer}.fc1.weight": (3072, 768),
        f"{layer}.fc2.weight": (768, 3072),
        f"{layer}.final_layer_norm.bias": (768,),
        "blstm.weight_ih_l0_reverse": (2048, 1024),
        "blstm.weight_hh_l0": (2048, 512),
        "projection.0.weight": (2048, 1024),
        "projection.2.weight": (1, 2048),
    }
    assert expected.items() <= shapes.items()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_released_layout_gives_fairseqs_features_and_score(
    released, small, sound, tmp_path, suffix
):
    network = load_utmos(save(released, tmp_path / f"utmos{suffix}"))
    ssl = {n.removeprefix(PREFIX): t for n, t in released.items() if n.startswith(PREFIX)}
    expected = features_by_hand(ssl, sound)
    waveform = torch.from_numpy(sound)[None]
    features = network.wav2vec2(waveform).last_hidden_state[0]
    assert features.shape == expected.shape == (13, 48)
    torch.testing.assert_close(features, expected, atol=1e-4, rtol=1e-4)
    alone = Wav2Vec2Model(small).eval()  # Transformers' own, on the same weights
    alone.load_state_dict(network.wav2vec2.state_dict())
    assert torch.equal(alone(waveform).last_hidden_state[0], features)
    assert network.score(sound) == pytest.approx(head_by_hand(released, expected), abs=1e-3)


def test_tensor_of_training_may_be_left_out(released, sound, tmp_path):
    whole = load_utmos(save(released, tmp_path / "whole.pt"))
    del released["wav2vec2.mask_emb"]
    assert load_utmos(save(released, tmp_path / "less.pt")).score(sound) == whole.score(sound)


# The model


def test_model_scores_and_names_its_file(released, sound, tmp_path):
    file = save(released, tmp_path / "utmos.pt")
    model = Utmos(file)
    assert isinstance(model, QualityModel)
    assert model.missing is None
    assert model.name.startswith("utmos22_strong ")
    assert model.score(sound) == {"utmos": load_utmos(file).score(sound)}


def test_long_speech_is_cut_into_equal_spans(tmp_path):
    heard = []

    class Network:
        def score(self, samples):
            heard.append(len(samples))
            return float(len(heard))

    model = Utmos(tmp_path / "utmos.pt")
    model.__dict__["_network"] = Network()
    assert model.score(np.zeros(LONGEST, np.float32)) == {"utmos": 1.0}
    assert model.score(np.zeros(LONGEST + 1, np.float32)) == {"utmos": 2.5}
    assert heard == [LONGEST, LONGEST // 2 + 1, LONGEST // 2]


def test_absent_weights_say_where_they_are_had(tmp_path):
    missing = Utmos(tmp_path / "utmos.pt").missing
    assert "utmos22_strong_step7459_v1.pt" in missing
    assert "github.com/tarepan/SpeechMOS" in missing


def test_sound_that_cannot_be_used_is_refused(tmp_path):
    with pytest.raises(AudioError):
        Utmos(tmp_path / "utmos.pt").score(np.zeros(10, np.float32))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w.pop("blstm.bias_hh_l0"), "must hold tensor blstm.bias_hh_l0, got none"),
        (lambda w: w.update(extra=torch.zeros(1)), "nothing but UTMOS, got tensor extra"),
        (
            lambda w: w.update(domain_emb=torch.zeros(3, 128)),
            r"tensor domain_emb of .* must have shape \(1, 128\), got \(3, 128\)",
        ),
        (lambda w: w.update(step=7459), "must hold tensors by name"),
    ],
    ids=["missing", "unknown", "misshapen", "no-tensor"],
)
def test_other_weights_are_refused(released, tmp_path, change, words):
    change(released)
    with pytest.raises(CheckpointError, match=words):
        load_utmos(save(released, tmp_path / "utmos.pt"))


@pytest.mark.parametrize("name", ["utmos.pt", "utmos.safetensors"])
def test_file_that_is_no_weights_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"<html>not found</html>")
    with pytest.raises(CheckpointError, match=f"{name} must be a whole file of weights"):
        load_utmos(tmp_path / name)


class Trap:
    def __reduce__(self):
        return print, ("code ran",)


def test_file_that_would_run_code_is_refused(tmp_path, capsys):
    torch.save({"domain_emb": Trap()}, tmp_path / "utmos.pt")
    with pytest.raises(CheckpointError, match="without running code"):
        load_utmos(tmp_path / "utmos.pt")
    assert "code ran" not in capsys.readouterr().out
