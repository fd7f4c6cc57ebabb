"""The light generator. What holds for every one is in test_vocoder.py and test_vocoding.py."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_omni.engine.vocoding import StreamingVocoder
from llama_omni.model.vocoder import UnitVocoder, VocoderConfig, vocoder_preset
from llama_omni.model.vocos import ConvNextIstft

SHAPES = {
    "default": {},
    "one-group": {"convnext_blocks": [3]},
    "three-groups": {"convnext_blocks": [1, 2, 1], "istft_hop": 80, "istft_size": 320},
    "half-overlap": {"istft_size": 320, "convnext_kernel_size": 3},
    "long-window": {"istft_size": 1600, "convnext_blocks": [1, 1]},
}


def vocoder_of(shape, **config) -> UnitVocoder:
    torch.manual_seed(0)
    small = {"num_units": 30, "embedding_dim": 12, "convnext_dim": 8, "convnext_hidden_dim": 16}
    fields = small | {"duration_hidden_dim": 8} | SHAPES[shape] | config
    vocoder = UnitVocoder(VocoderConfig(generator="convnext-istft", **fields)).eval()
    for parameter in vocoder.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return vocoder


each_shape = pytest.mark.parametrize("shape", SHAPES)


def test_tiny_is_small():
    with torch.device("meta"):
        vocoder = UnitVocoder(vocoder_preset("tiny"))
    assert sum(weight.numel() for weight in vocoder.parameters()) == 2_856_131
    assert (vocoder.hop, vocoder.sample_rate, vocoder.num_units) == (320, 16_000, 200)
    assert vocoder.receptive_field == 24


@each_shape
def test_hop_follows_the_configuration(shape):
    vocoder = vocoder_of(shape)
    frames = torch.zeros(1, 7, dtype=torch.long)
    expected = vocoder.config.istft_hop * 2 ** (len(vocoder.config.convnext_blocks) - 1)
    assert vocoder.hop == expected
    assert vocoder.generate(frames).shape == (1, 7 * expected)


@each_shape
@torch.inference_mode()
def test_only_the_receptive_field_is_heard(shape):
    """A unit at the field's edge changes a frame's sound; one frame further changes no bit."""
    vocoder = vocoder_of(shape).double()
    reach, size = vocoder.receptive_field, 2 * vocoder.receptive_field + 9
    embedded = torch.randn(1, 12, size, dtype=torch.float64)

    def changed(place):
        other = embedded.clone()
        other[:, :, place] += 1
        differs = vocoder.generator(embedded) != vocoder.generator(other)  # (1, S)
        heard = differs.reshape(size, vocoder.hop).any(dim=1).nonzero()[:, 0]
        return int(heard.min()) - place, int(heard.max()) - place

    first, last = changed(size // 2)
    assert max(-first, last) == reach
    assert changed(0)[1] <= reach
    assert changed(size - 1)[0] >= -reach


@each_shape
@settings(max_examples=20, deadline=None)
@given(
    drawn=st.tuples(
        st.lists(st.integers(0, 29), max_size=60), st.lists(st.integers(0, 60), max_size=8)
    )
)
def test_streaming_any_split_equals_offline(shape, drawn):
    vocoder, (units, cuts) = vocoder_of(shape), drawn
    streaming = StreamingVocoder(vocoder, lookahead=vocoder.receptive_field)
    places = [0, *sorted(min(cut, len(units)) for cut in cuts), len(units)]
    state, sounds = streaming.start(), []
    for start, end in pairwise(places):
        spoken, state = streaming.push(units[start:end], state)
        sounds.append(spoken.audio)
    spoken, _ = streaming.push([], state, final=True)
    with torch.inference_mode():
        offline = vocoder(torch.tensor(units, dtype=torch.long))
    torch.testing.assert_close(torch.cat([*sounds, spoken.audio]), offline, atol=1e-4, rtol=0)


@each_shape
@torch.inference_mode()
def test_rows_sound_as_alone(shape):
    vocoder = vocoder_of(shape)
    rows = [torch.randint(0, 30, (size,)) for size in (1, 9, 4)]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=5)
    together = vocoder.generate(padded, torch.tensor([len(row) for row in rows]))
    for row, sound in zip(rows, together, strict=True):
        alone = vocoder.generate(row[None])[0]
        torch.testing.assert_close(sound[: len(alone)], alone, atol=1e-6, rtol=0)
        assert not sound[len(alone) :].any()


@torch.inference_mode()
def test_overlap_add_gives_back_a_sound():
    """Windows cut from a sound and put through the inverse transform are that sound."""
    generator = vocoder_of("default").generator
    assert isinstance(generator, ConvNextIstft)
    size, step = generator.size, generator.step
    edge = (size - step) // 2
    sound = 0.3 * torch.randn(1, 20 * step)
    windows = torch.nn.functional.pad(sound, (edge, edge)).unfold(1, size, step)
    cut = (windows * torch.hann_window(size)).roll(-size // 2, dims=-1)
    spectrum = torch.fft.rfft(cut)
    spectra = torch.cat([spectrum.abs().clamp(min=1e-9).log(), spectrum.angle()], dim=-1)
    torch.testing.assert_close(generator._sound(spectra, None), sound, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_sound_stays_within_full_scale():
    generator = vocoder_of("default").generator
    loud = torch.full((1, 4, generator.size + 2), 50.0)
    sound = generator._sound(loud, None)
    assert sound.isfinite().all()
    assert sound.abs().max() <= 1
