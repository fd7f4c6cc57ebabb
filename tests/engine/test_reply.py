from itertools import count, pairwise

import numpy as np
import pytest
import torch

from llama_omni.engine.phases import Phases
from llama_omni.engine.reply import ReplyBuilder
from llama_omni.engine.vocoding import StreamingVocoder
from llama_omni.interfaces import AudioDelta, ReplyDone, ReplyOptions, TextDelta
from llama_omni.model.vocoder import UnitVocoder, vocoder_preset

BLANK, STOP = 200, 99
WORDS = {1: " one", 2: " two", 3: " three", STOP: "<stop>"}


@pytest.fixture(scope="module")
def vocoder():
    torch.manual_seed(0)
    return UnitVocoder(vocoder_preset("tiny")).eval()


def builder(vocoder, **options):
    ticks = count()
    return ReplyBuilder(
        ReplyOptions(**options),
        vocoder=vocoder,
        decode=lambda ids: "".join(WORDS[i] for i in ids),
        stop_ids=[STOP],
        clock=lambda: float(next(ticks)),
        started=0.0,
        phases=Phases(torch.device("cpu"), lambda: 0.0),
    )


STEPS = [
    (1, [5, 5, 6, 7]),
    (2, [7, BLANK, 7, 8]),
    (3, [9, 10, 11, 12]),
    (STOP, [13, BLANK, 14, 14]),
]
UNITS = (5, 6, 7, 7, 8, 9, 10, 11, 12, 13, 14)
UNIT_TOKENS = (0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 3)


def play(made, steps=STEPS):
    events = []
    for token, labels in steps:
        events += made.push(token, labels)
        if made.finished:
            break
    return [*events, *made.finish(made.finished or "length")]


@pytest.mark.parametrize("chunk_size", [1, 3, 10, None])
def test_reply_holds_text_units_and_sound(vocoder, chunk_size):
    events = play(builder(vocoder, chunk_size=chunk_size, lookahead=10))
    reply = events[-1].reply
    assert reply.text == " one two three"
    assert reply.units == UNITS
    assert reply.unit_tokens == UNIT_TOKENS
    assert reply.token_ids == (1, 2, 3, STOP)
    assert reply.finish_reason == "stop"
    with torch.inference_mode():
        whole = vocoder(torch.tensor(UNITS)).numpy()
    assert reply.audio.shape == whole.shape
    assert [type(e) for e in events].count(ReplyDone) == 1


def test_infinite_chunk_is_the_offline_vocoder(vocoder):
    reply = play(builder(vocoder, chunk_size=None))[-1].reply
    with torch.inference_mode():
        whole = vocoder(torch.tensor(UNITS)).numpy()
    np.testing.assert_allclose(reply.audio, whole, atol=1e-5)
    assert reply.lagging_words == 3


@pytest.mark.parametrize("chunk_size", [2, 5])
def test_events_tile_the_reply_without_gap_or_overlap(vocoder, chunk_size):
    events = play(builder(vocoder, chunk_size=chunk_size))
    reply = events[-1].reply
    sounds = [event for event in events if isinstance(event, AudioDelta)]
    assert sounds[0].first_sample == 0
    assert sounds[-1].end_sample == len(reply.audio)
    for before, after in pairwise(sounds):
        assert before.end_sample == after.first_sample
        assert before.first_token <= after.first_token < after.end_token
    for event in sounds:
        assert len(event.audio) == event.end_sample - event.first_sample
        assert event.sample_rate == vocoder.sample_rate
    np.testing.assert_array_equal(np.concatenate([e.audio for e in sounds]), reply.audio)
    texts = [event for event in events if isinstance(event, TextDelta)]
    assert "".join(event.text for event in texts) == reply.text
    assert [(e.first_token, e.end_token) for e in texts] == [(0, 1), (1, 2), (2, 3)]


def test_chunk_leaves_in_the_step_that_completes_it(vocoder):
    made = builder(vocoder, chunk_size=5)
    kinds = [[type(e).__name__ for e in made.push(*step)] for step in STEPS]
    assert kinds == [["TextDelta"], ["TextDelta", "AudioDelta"], ["TextDelta"], ["AudioDelta"]]
    assert made.reply().lagging_words == 2


def test_vocoder_gets_chunks_of_exactly_chunk_size_units(vocoder, monkeypatch):
    sizes, push = [], StreamingVocoder.push

    def spy(self, units, state, *, final=False):
        sizes.append((len(units), final))
        return push(self, units, state, final=final)

    monkeypatch.setattr(StreamingVocoder, "push", spy)
    play(builder(vocoder, chunk_size=3))
    assert sizes == [(3, False), (3, False), (3, False), (2, True)]


def test_audio_knows_the_tokens_it_speaks(vocoder):
    events = play(builder(vocoder, chunk_size=5, lookahead=2))
    sounds = [event for event in events if isinstance(event, AudioDelta)]
    assert (sounds[0].first_token, sounds[0].end_token) == (0, 1)  # units 0 to 2 of five
    assert sounds[-1].end_token == 4
    assert events[-1].reply.sample_tokens == tuple((e.first_token, e.end_token) for e in sounds)


def test_maximum_of_tokens_ends_the_reply(vocoder):
    reply = play(builder(vocoder, max_new_tokens=2))[-1].reply
    assert reply.token_ids == (1, 2)
    assert reply.finish_reason == "length"


def test_cancelled_reply_gives_no_more_sound_and_says_so(vocoder):
    made = builder(vocoder, chunk_size=5)
    for step in STEPS[:3]:
        list(made.push(*step))
    events = list(made.finish("cancelled"))
    assert [type(e) for e in events] == [ReplyDone]
    reply = events[0].reply
    assert reply.finish_reason == "cancelled"
    assert reply.text == " one two three"
    assert len(reply.units) == 9
    assert reply.timings.first_audio_s is not None


def test_reply_of_blanks_is_silent_but_complete(vocoder):
    reply = play(builder(vocoder), [(1, [BLANK] * 4), (STOP, [BLANK] * 4)])[-1].reply
    assert reply.text == " one"
    assert reply.units == ()
    assert len(reply.audio) == 0
    assert reply.lagging_words is None
    assert reply.timings.first_audio_s is None
    assert reply.real_time_factor is None


def test_schedule_emits_units_at_its_rate_and_never_repeats_one(vocoder):
    steps = [(1, [BLANK] * 4)] * 40
    reply = play(builder(vocoder, units_per_token=10.8, max_new_tokens=40), steps)[-1].reply
    assert len(reply.units) == 432
    assert all(a != b for a, b in pairwise(reply.units))
    assert all(0 <= unit < BLANK for unit in reply.units)
