import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import initialization

from benchmarks.vocoder_seams import speak_chunks_alone
from llama_omni.errors import CheckpointError, ConfigError, InputError
from llama_omni.model.vocoder import UnitVocoder, VocoderConfig, vocoder_preset

GOLDEN = Path(__file__).parents[1] / "golden" / "vocoder"


@pytest.fixture(scope="module")
def tensors(golden) -> dict[str, torch.Tensor]:
    folder = golden / "vocoder"
    return load_file(folder / "inputs.safetensors") | load_file(folder / "outputs.safetensors")


@pytest.fixture(scope="module")
def reference(golden) -> UnitVocoder:
    return UnitVocoder.from_fairseq(golden / "vocoder/g.pt", golden / "vocoder/config.json")


SIZES = {
    "hifigan": VocoderConfig(
        num_units=200, embedding_dim=64, initial_channels=64, duration_hidden_dim=64
    ),
    "convnext-istft": vocoder_preset("tiny"),
}


@pytest.fixture(scope="module", params=list(SIZES))
def tiny(request) -> UnitVocoder:
    """A small vocoder of each kind, with random weights."""
    torch.manual_seed(0)
    return UnitVocoder(SIZES[request.param]).eval()


@pytest.fixture
def fairseq(tmp_path):
    """Return a function that writes fairseq's two files with something changed in each."""

    def write(change=lambda tensors: None, **fields):
        tensors = torch.load(GOLDEN / "g.pt", weights_only=True)["generator"]
        change(tensors)
        torch.save({"generator": tensors}, tmp_path / "g.pt")
        config = json.loads((GOLDEN / "config.json").read_text()) | fields
        (tmp_path / "config.json").write_text(
            json.dumps({key: value for key, value in config.items() if value is not ...})
        )
        return UnitVocoder.from_fairseq(tmp_path / "g.pt", tmp_path / "config.json")

    return write


# Parity.


def test_durations_match_reference(reference, tensors):
    assert torch.equal(reference.durations(tensors["code"]), tensors["durations"])


def test_log_durations_match_reference(reference, tensors):
    log_durations = reference.duration_predictor(reference.embedding(tensors["code"]))
    torch.testing.assert_close(log_durations, tensors["log_dur"], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("units", "predict_durations", "waveform"),
    [
        pytest.param("code", True, "wav_dur", id="durations"),
        pytest.param("code", False, "wav_nodur", id="one-frame-a-unit"),
        pytest.param("code_with_negatives", True, "wav_neg_dur", id="negatives-dropped"),
    ],
)
@torch.inference_mode()
def test_waveform_matches_reference(reference, tensors, units, predict_durations, waveform):
    sound = reference(tensors[units][0], predict_durations=predict_durations)
    torch.testing.assert_close(sound, tensors[waveform], atol=1e-4, rtol=0)


def test_chunks_alone_match_the_reference_demo(reference, tensors):
    naive = speak_chunks_alone(reference, tensors["code"][0].tolist(), 10)
    assert sum(naive.durations) * reference.hop == tensors["chunk_samples"].sum()
    torch.testing.assert_close(naive.audio, tensors["wav_chunked"], atol=1e-4, rtol=0)


def test_new_weight_norm_names_give_the_same_vocoder(fairseq):
    def rename(tensors):
        for old, new in (("weight_g", "original0"), ("weight_v", "original1")):
            for name in [name for name in tensors if name.endswith(old)]:
                stem = name.removesuffix(old)
                tensors[f"{stem}parametrizations.weight.{new}"] = tensors.pop(name)

    renamed = fairseq(rename)
    for name, weight in fairseq().state_dict().items():
        assert torch.equal(renamed.state_dict()[name], weight), name


def test_halves_round_to_even_and_nothing_is_shorter_than_a_frame(tiny, monkeypatch):
    frames = torch.tensor([[-0.9, 0.2, 0.5, 1.5, 2.5, 3.5, 2.4999, 2.5001]], dtype=torch.float64)
    monkeypatch.setattr(tiny.duration_predictor, "forward", lambda *_: (frames + 1).log())
    durations = tiny.durations(torch.zeros(1, 8, dtype=torch.long))
    assert durations.tolist() == [[1, 1, 1, 2, 2, 4, 2, 3]]


# The interface.


def test_defaults_are_the_released_vocoder():
    with torch.device("meta"):
        vocoder = UnitVocoder(VocoderConfig())
    assert sum(weight.numel() for weight in vocoder.parameters()) == 13_475_010
    assert (vocoder.hop, vocoder.sample_rate, vocoder.num_units) == (320, 16_000, 1000)


def test_receptive_field_is_exact(tiny):
    middle = tiny.receptive_field + 2
    shape = (1, tiny.config.embedding_dim, 2 * middle + 1)
    embedded = torch.randn(shape, requires_grad=True, dtype=torch.float64)
    generator = UnitVocoder(tiny.config).double().generator
    hop = tiny.hop
    generator(embedded)[0, middle * hop : (middle + 1) * hop].abs().sum().backward()
    seen = embedded.grad[0].abs().sum(dim=0).nonzero()[:, 0]
    assert max(middle - seen.min(), seen.max() - middle) == tiny.receptive_field


@torch.inference_mode()
def test_batched_rows_equal_single_rows(tiny):
    rows = [torch.randint(0, tiny.num_units, (size,)) for size in (3, 11, 7)]
    lengths = torch.tensor([len(row) for row in rows])
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=5)
    together = tiny.generate(padded, lengths)
    durations = tiny.durations(padded, lengths)
    for row, sound, frames in zip(rows, together, durations, strict=True):
        alone = tiny.generate(row[None])[0]
        torch.testing.assert_close(sound[: len(alone)], alone, atol=1e-6, rtol=0)
        assert not sound[len(alone) :].any()
        assert torch.equal(frames[: len(row)], tiny.durations(row[None])[0])


@torch.inference_mode()
def test_equal_lengths_need_no_mask(tiny):
    frames = torch.randint(0, tiny.num_units, (3, 9))
    rows = torch.cat([tiny.generate(row[None]) for row in frames])
    torch.testing.assert_close(tiny.generate(frames), rows, atol=1e-6, rtol=0)


@pytest.mark.parametrize("units", [[], [-1, -2]], ids=["none", "only-negatives"])
def test_no_units_give_an_empty_waveform(tiny, units):
    assert tiny(torch.tensor(units, dtype=torch.long)).shape == (0,)


def test_unit_out_of_range_is_refused(tiny):
    with pytest.raises(InputError, match="units must be below 200, got 200"):
        tiny(torch.tensor([3, 200]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_saved_vocoder_comes_back(tiny, tmp_path, dtype):
    tiny.save_pretrained(tmp_path)
    again = UnitVocoder.from_pretrained(tmp_path, dtype=dtype)
    assert not again.training
    assert again.dtype == dtype
    assert again.config.resblock_dilations == tiny.config.resblock_dilations
    for name, weight in tiny.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight.to(dtype)), name


@torch.inference_mode()
def test_bfloat16_sounds_like_float32(tiny, tmp_path):
    tiny.save_pretrained(tmp_path)
    half = UnitVocoder.from_pretrained(tmp_path, dtype=torch.bfloat16)
    frames = torch.randint(0, tiny.num_units, (1, 50))
    full, rounded = tiny.generate(frames), half.generate(frames)
    assert rounded.dtype == torch.bfloat16
    assert (full - rounded.float()).norm() < 0.05 * full.norm()


@pytest.mark.parametrize("name", ["8b", "tiny"])
@torch.inference_mode()
def test_random_weights_sound(name):
    torch.manual_seed(1)
    vocoder = UnitVocoder(vocoder_preset(name)).eval()
    units = torch.randint(0, vocoder.num_units, (60,))
    durations = vocoder.durations(units[None])
    assert ((durations >= 1) & (durations <= 3)).float().mean() > 0.8
    sound = vocoder(units)
    assert len(sound) == durations.sum() * vocoder.hop
    assert 0.01 < sound.std() < 0.4
    assert sound.abs().max() < 0.99


def test_loading_draws_no_new_weights(tiny, tmp_path, monkeypatch):
    tiny.save_pretrained(tmp_path)
    monkeypatch.setattr(initialization, "normal_", lambda weight, **_: weight.fill_(float("nan")))
    again = UnitVocoder.from_pretrained(tmp_path)
    assert not any(weight.isnan().any() for weight in again.parameters())


# Rules.


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"adaptor": 1},
            "no field 'adaptor' in VocoderConfig; it has generator, sample_rate, num_u",
        ),
        (
            {"generator": "wavenet"},
            "vocoder.generator must be one of hifigan, convnext-istft, got 'wavenet'",
        ),
        ({"num_units": 0}, "vocoder.num_units must be a number of at least 1, got 0"),
        ({"sample_rate": -1}, "vocoder.sample_rate must be a number of at least 1, got -1"),
        ({"duration_dropout": 1.0}, r"vocoder.duration_dropout must be in \[0, 1\), got 1.0"),
        ({"upsample_rates": [5, 4]}, "vocoder.upsample_kernel_sizes must be one for each"),
        ({"upsample_rates": []}, "vocoder.upsample_rates must be numbers of at least 1, got"),
        ({"upsample_kernel_sizes": [10, 8, 8, 4, 4]}, "larger by an even number"),
        ({"initial_channels": 48}, "vocoder.initial_channels must be a multiple of 32"),
        ({"resblock_kernel_sizes": [3, 7, 10]}, "vocoder.resblock_kernel_sizes must be odd"),
        ({"resblock_dilations": [[1], [1]]}, "vocoder.resblock_dilations must be one list for"),
        ({"resblock_dilations": [[1], [], [2]]}, "must be lists of numbers of at least 1"),
        ({"convnext_dim": 0}, "vocoder.convnext_dim must be a number of at least 1, got 0"),
        ({"convnext_blocks": []}, "vocoder.convnext_blocks must be numbers of at least 1, got"),
        ({"convnext_kernel_size": 4}, "vocoder.convnext_kernel_size must be odd, got 4"),
        ({"istft_hop": 150}, "vocoder.istft_size must be a multiple of istft_hop, larger by an"),
        ({"istft_size": 160}, "vocoder.istft_size must be a multiple of istft_hop, larger by an"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_impossible_config_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        VocoderConfig(**fields)


def test_unknown_preset_lists_the_known_ones():
    with pytest.raises(ConfigError, match="preset must be one of 8b, 1b, tiny, got '7b'"):
        vocoder_preset("7b")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"f0": True}, "f0 in .* must be off"),
        ({"multispkr": "_"}, "multispkr in .* must be off"),
        ({"embedder_params": {"num": 3}}, "embedder_params in .* must be off"),
        ({"resblock": "2"}, "resblock in .* must be 1, got '2'"),
        ({"model_in_dim": 32}, "model_in_dim in .* must be 16, got 32"),
        ({"code_hop_size": 160}, "code_hop_size in .* must be 320, got 160"),
        ({"dur_predictor_params": ...}, "dur_predictor_params in .* must be an object, got None"),
        ({"num_embeddings": ...}, "must hold num_embeddings, got none"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_other_fairseq_vocoders_are_refused(fairseq, fields, message):
    with pytest.raises(ConfigError, match=message):
        fairseq(**fields)


def test_training_keys_of_fairseq_are_ignored(fairseq):
    assert fairseq(learning_rate=2e-4, num_mels=80, multispkr=None).hop == 320


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda t: t.pop("conv_pre.bias"), "tensor conv_pre.bias, got none", id="bias"),
        pytest.param(lambda t: t.pop("ups.1.weight_g"), "tensor ups.1.weight_g, got none", id="g"),
        pytest.param(lambda t: t.pop("ups.1.weight_v"), "tensor ups.1.weight_v, got none", id="v"),
        pytest.param(
            lambda t: t.pop("dur_predictor.ln1.weight"),
            "tensor dur_predictor.ln1.weight, got none",
            id="durations",
        ),
        pytest.param(
            lambda t: t.update(spkr=torch.zeros(2)), "no other tensors, got spkr", id="extra"
        ),
        pytest.param(
            lambda t: t.update({"dict.weight": torch.zeros(999, 16)}),
            r"dict.weight in .* must have shape \(1000, 16\), got \(999, 16\)",
            id="shape",
        ),
        pytest.param(
            lambda t: t.update({"ups.1.weight_g": torch.ones(8, 1, 1)}),
            r"ups.1.weight_g in .* must have shape \(16, 1, 1\), got \(8, 1, 1\)",
            id="magnitude-shape",
        ),
    ],
)
def test_wrong_tensor_is_named(fairseq, change, message):
    with pytest.raises(CheckpointError, match=message):
        fairseq(change)


def test_unreadable_files_are_refused(tmp_path):
    bad = tmp_path / "bad"
    with pytest.raises(CheckpointError, match="bad must be a readable checkpoint"):
        UnitVocoder.from_fairseq(bad, GOLDEN / "config.json")
    bad.write_bytes(b"no pickle")
    with pytest.raises(CheckpointError, match="bad must be a readable checkpoint"):
        UnitVocoder.from_fairseq(bad, GOLDEN / "config.json")
    with pytest.raises(CheckpointError, match="bad must be a readable JSON file"):
        UnitVocoder.from_fairseq(GOLDEN / "g.pt", bad)
    torch.save({"model": {}}, bad)
    with pytest.raises(CheckpointError, match="must hold the tensors under 'generator'"):
        UnitVocoder.from_fairseq(bad, GOLDEN / "config.json")


class _Payload:
    def __reduce__(self):
        return (print, ("code from a checkpoint ran",))


def test_pickled_code_does_not_run(tmp_path, capsys):
    torch.save({"generator": _Payload()}, tmp_path / "g.pt")
    with pytest.raises(CheckpointError, match="must be a readable checkpoint"):
        UnitVocoder.from_fairseq(tmp_path / "g.pt", GOLDEN / "config.json")
    assert "ran" not in capsys.readouterr().out
