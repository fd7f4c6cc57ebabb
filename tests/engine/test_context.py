import pytest
import torch

from llama_omni.checkpoint import random_model
from llama_omni.engine.context import Context, SpokenTurn
from llama_omni.engine.step import Stepper
from llama_omni.errors import CapacityError
from llama_omni.model.omni import SPEECH_TOKEN
from llama_omni.model.presets import preset


@pytest.fixture(scope="module")
def model():
    config = preset("tiny")
    config.max_positions = 64
    return random_model(config)


def spoken(length, seed=0):
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(length, 256, generator=generator)
    return SpokenTurn.of(embeddings[:, 0].numpy().copy(), embeddings)


def test_next_prompt_reads_only_what_is_new(model):
    context, speech = Context(Stepper(model)), spoken(6)
    first = [1, 2, SPEECH_TOKEN, 3]
    context.read(first, [speech])
    assert context.reused == 0
    for token in (40, 41):
        context._stepper.prefill(context.slot, context._embed([token]))
        context.note(token)
    longer = [*first, 40, 41, 42, 5, 6]
    state = context.read(longer, [speech])
    assert context.reused == 3 + 6 + 2
    fresh = Context(Stepper(model)).read(longer, [speech])
    torch.testing.assert_close(state, fresh, rtol=1e-4, atol=1e-4)


def test_same_prompt_again_rereads_only_its_last_position(model):
    context = Context(Stepper(model))
    before = context.read([1, 2, 3], [])
    after = context.read([1, 2, 3], [])
    assert context.reused == 2
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)


def test_other_speech_in_the_same_place_is_read_anew(model):
    context = Context(Stepper(model))
    context.read([1, SPEECH_TOKEN, 2], [spoken(4, seed=1)])
    state = context.read([1, SPEECH_TOKEN, 2], [spoken(4, seed=2)])
    assert context.reused == 1
    fresh = Context(Stepper(model)).read([1, SPEECH_TOKEN, 2], [spoken(4, seed=2)])
    torch.testing.assert_close(state, fresh, rtol=1e-4, atol=1e-4)


def test_prompt_that_leaves_no_room_for_a_reply_is_refused(model):
    context = Context(Stepper(model))
    context.read([1, 2, 3], [])
    with pytest.raises(CapacityError, match="must fit 64 positions, got 64 before the reply"):
        context.read([7] * 64, [])
    context.read([1, 2, 3, 4], [])
    assert context.reused == 3
