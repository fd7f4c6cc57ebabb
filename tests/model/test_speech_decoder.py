import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_omni.engine.cache import SpeechCache
from llama_omni.model.config import SpeechDecoderConfig
from llama_omni.model.ctc import collapse
from llama_omni.model.speech_decoder import SpeechDecoder

D = 12


def make(*, ours, layers=2, factor=5, rope=None):
    torch.manual_seed(0)
    config = SpeechDecoderConfig(
        upsample_factor=factor,
        num_units=9,
        num_layers=layers,
        hidden_size=16,
        num_heads=2,
        intermediate_size=24,
        frame_embedding=ours,
        token_embedding=ours,
        rope_parameters=rope or {"rope_type": "default", "rope_theta": 10000.0},
    )
    decoder = SpeechDecoder(config, llm_dim=D).eval()
    for parameter in decoder.parameters():  # norms and embeddings away from their plain start
        parameter.data += 0.3 * torch.randn_like(parameter)
    return decoder


def inputs(decoder, batch, length):
    hidden = torch.randn(batch, length, D)
    tokens = torch.randn(batch, length, D) if decoder.token_proj is not None else None
    return hidden, tokens


def streamed(decoder, hidden, tokens, sizes):
    cache = SpeechCache(
        decoder, dtype=torch.float32, device=torch.device("cpu"), max_tokens=hidden.shape[1]
    )
    slots = [cache.allocate() for _ in range(len(hidden))]
    out, start = [], 0
    for size in sizes:
        piece = slice(start, start + size)
        cache.select(slots, size)
        out.append(
            decoder.step(hidden[:, piece], tokens if tokens is None else tokens[:, piece], cache)
        )
        cache.advance(slots, size)
        start += size
    return torch.cat(out, dim=1)


YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("ours", [False, True], ids=["released", "ours"])
@pytest.mark.parametrize("rope", [None, YARN], ids=["default-rope", "scaled-rope"])
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_streaming_matches_offline_for_any_split(data, layers, ours, rope):
    decoder = make(ours=ours, layers=layers, rope=rope)
    length = data.draw(st.integers(1, 8))
    sizes = []
    while sum(sizes) < length:
        sizes.append(data.draw(st.integers(1, length - sum(sizes))))
    hidden, tokens = inputs(decoder, 2, length)
    with torch.inference_mode():
        offline, _ = decoder(hidden, tokens)
        torch.testing.assert_close(
            streamed(decoder, hidden, tokens, sizes), offline, rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("ours", [False, True], ids=["released", "ours"])
def test_later_states_never_change_earlier_frames(ours):
    decoder = make(ours=ours)
    hidden, tokens = inputs(decoder, 1, 6)
    changed = hidden.clone()
    changed[:, 3:] += 1.0
    before, _ = decoder(hidden, tokens)
    after, _ = decoder(changed, tokens)
    torch.testing.assert_close(before[:, :15], after[:, :15])
    assert not torch.allclose(before[:, 15:], after[:, 15:])


def test_padding_never_changes_valid_frames():
    decoder = make(ours=True)
    hidden, tokens = inputs(decoder, 2, 6)
    lengths = torch.tensor([6, 2])
    logits, frames = decoder(hidden, tokens, lengths=lengths)
    alone, _ = decoder(hidden[1:, :2], tokens[1:, :2])
    assert frames.tolist() == [30, 10]
    torch.testing.assert_close(logits[1, :10], alone[0])


def test_first_token_says_at_most_one_unit_without_the_frame_embedding():
    decoder = make(ours=False, factor=25)
    logits, _ = decoder(*inputs(decoder, 1, 1))
    torch.testing.assert_close(logits, logits[:, :1].expand_as(logits), rtol=1e-5, atol=1e-5)
    assert len(collapse(logits.argmax(-1)[0].tolist(), blank=9)) <= 1


def test_first_token_can_say_several_units_with_the_frame_embedding():
    decoder = make(ours=True, factor=25)
    logits, _ = decoder(*inputs(decoder, 1, 1))
    assert len(collapse(logits.argmax(-1)[0].tolist(), blank=9)) > 1


def test_chosen_token_is_heard_only_by_its_own_and_later_frames():
    decoder = make(ours=True)
    hidden, tokens = inputs(decoder, 1, 4)
    other = tokens.clone()
    other[:, 2] += 1.0
    before, _ = decoder(hidden, tokens)
    after, _ = decoder(hidden, other)
    torch.testing.assert_close(before[:, :10], after[:, :10])
    assert not torch.allclose(before[:, 10:15], after[:, 10:15])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_streams_large_states_as_offline(dtype):
    decoder = make(ours=True).to(dtype)
    hidden, tokens = (300 * x.to(dtype) for x in inputs(decoder, 1, 4))
    cache = SpeechCache(decoder, dtype=dtype, device=torch.device("cpu"), max_tokens=8)
    slot = cache.allocate()
    steps = []
    with torch.inference_mode():
        offline, _ = decoder(hidden, tokens)
        for t in range(4):
            cache.select([slot], 1)
            steps.append(decoder.step(hidden[:, t : t + 1], tokens[:, t : t + 1], cache))
            cache.advance([slot], 1)
    streamed_logits = torch.cat(steps, dim=1).float()
    assert streamed_logits.isfinite().all()
    scale = offline.float().abs().max()
    assert (streamed_logits - offline.float()).abs().max() < 0.05 * scale


def test_first_layer_keeps_one_row_a_token():
    decoder = make(ours=True, factor=25, layers=1)
    cache = SpeechCache(decoder, dtype=torch.float32, device=torch.device("cpu"), max_tokens=64)
    cache.allocate()
    tokens, heads, d = 65, 2, 8  # capacity and the scratch column
    assert cache.num_bytes == 4 * (2 * heads * tokens * d + tokens * 25)
