from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.vocoder_seams import Bench
from llama_omni.engine.vocoding import (
    DEFAULT_CROSSFADE_S,
    DEFAULT_LOOKAHEAD,
    Push,
    StreamingVocoder,
)
from llama_omni.errors import ConfigError, InputError
from llama_omni.model.vocoder import UnitVocoder, VocoderConfig, vocoder_preset

GOLDEN = Path(__file__).parents[1] / "golden" / "vocoder"


def _random() -> UnitVocoder:
    torch.manual_seed(0)
    return UnitVocoder(vocoder_preset("tiny")).eval()


VOCODERS = {
    "golden": UnitVocoder.from_fairseq(GOLDEN / "g.pt", GOLDEN / "config.json"),
    "random": _random(),
}
TINY = VOCODERS["random"]
each_vocoder = pytest.mark.parametrize("name", VOCODERS)
units_and_cuts = st.tuples(
    st.lists(st.integers(-1, TINY.num_units - 1), max_size=60),
    st.lists(st.integers(0, 60), max_size=8),
)


def offline(vocoder, units):
    with torch.inference_mode():
        return vocoder(torch.tensor(units, dtype=torch.long))


def stream(streaming, pieces):
    """Push every piece, the last one as final: what was spoken and the states between."""
    spoken, states = [], [streaming.start()]
    for place, piece in enumerate(pieces):
        sound, state = streaming.push(piece, states[-1], final=place == len(pieces) - 1)
        spoken.append(sound)
        states.append(state)
    return spoken, states


def pieces_of(units, size):
    return [units[place : place + size] for place in range(0, len(units), size)]


def replies(vocoder, *sizes):
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randint(0, vocoder.num_units, (size,), generator=generator).tolist() for size in sizes
    ]


@each_vocoder
@settings(max_examples=30, deadline=None)
@given(drawn=units_and_cuts)
def test_whole_lookahead_equals_offline_for_any_split(name, drawn):
    vocoder, (units, cuts) = VOCODERS[name], drawn
    places = [0, *sorted(min(cut, len(units)) for cut in cuts), len(units)]
    streaming = StreamingVocoder(vocoder, lookahead=vocoder.receptive_field)
    spoken, _ = stream(streaming, [units[start:end] for start, end in pairwise(places)])
    sound = torch.cat([each.audio for each in spoken])
    torch.testing.assert_close(sound, offline(vocoder, units), atol=1e-4, rtol=0)


@each_vocoder
@settings(max_examples=30, deadline=None)
@given(drawn=units_and_cuts, lookahead=st.integers(0, 6))
def test_ranges_and_durations_are_exact_for_any_split(name, drawn, lookahead):
    vocoder, (units, cuts) = VOCODERS[name], drawn
    places = [0, *sorted(min(cut, len(units)) for cut in cuts), len(units)]
    streaming = StreamingVocoder(vocoder, lookahead=lookahead)
    spoken, _ = stream(streaming, [units[start:end] for start, end in pairwise(places)])
    kept = [unit for unit in units if unit >= 0]
    with torch.inference_mode():
        durations = vocoder.durations(torch.tensor([kept]))[0].tolist() if kept else []
    assert [spoken[0].first_unit, spoken[0].first_sample] == [0, 0]
    assert spoken[-1].end_unit == len(kept)
    for before, after in pairwise(spoken):
        assert (before.end_unit, before.end_sample) == (after.first_unit, after.first_sample)
    for each in spoken:
        frames = sum(durations[each.first_unit : each.end_unit])
        assert len(each.audio) == each.end_sample - each.first_sample == frames * vocoder.hop


@each_vocoder
@pytest.mark.parametrize("chunk", [10, 40])
def test_default_lookahead_stays_near_offline(name, chunk):
    """The stated bounds: half of naive's error at seams, 10 % of the sound's norm overall."""
    vocoder = VOCODERS[name]
    (units,) = replies(vocoder, 120)
    bench = Bench(vocoder, [units])
    ours = bench.ours(chunk, DEFAULT_LOOKAHEAD, DEFAULT_CROSSFADE_S)
    naive = bench.naive(chunk)
    assert ours.delay_units == naive.delay_units == chunk
    assert ours.seam_db <= 0.5 * naive.seam_db
    spoken, _ = stream(StreamingVocoder(vocoder), pieces_of(units, chunk))
    exact = offline(vocoder, units)
    error = torch.cat([each.audio for each in spoken]) - exact
    assert error.norm() < 0.1 * exact.norm()


def test_sound_leaves_when_the_chunks_last_unit_is_known():
    streaming = StreamingVocoder(TINY, lookahead=4)
    (units,) = replies(TINY, 30)
    spoken, _ = stream(streaming, pieces_of(units, 10))
    assert [(each.first_unit, each.end_unit) for each in spoken] == [(0, 6), (6, 16), (16, 30)]


@pytest.mark.parametrize("lookahead", [0, 1, 2])
def test_a_unit_waits_until_its_duration_is_certain(lookahead):
    spoken, _ = StreamingVocoder(TINY, lookahead=lookahead).push(range(9), _start())
    assert spoken.end_unit == 9 - TINY.duration_context


def _start():
    return StreamingVocoder(TINY).start()


def test_state_does_not_grow_with_the_reply():
    streaming = StreamingVocoder(TINY, lookahead=5)
    (units,) = replies(TINY, 200)
    _, states = stream(streaming, [*pieces_of(units, 10), []])
    for state in states[10:-1]:
        assert len(state.pending) == 5
        assert len(state.left_units) == TINY.duration_context
        assert len(state.left_frames) == TINY.receptive_field
        assert state.tail.untyped_storage().nbytes() == state.tail.nbytes == 4 * 80
    assert states[-1].tail is None
    assert not states[-1].pending


def test_state_is_a_value():
    streaming = StreamingVocoder(TINY)
    (units,) = replies(TINY, 40)
    _, state = streaming.push(units[:20], streaming.start())
    first, _ = streaming.push(units[20:], state, final=True)
    streaming.push(units[:5], state)
    second, _ = streaming.push(units[20:], state, final=True)
    assert torch.equal(first.audio, second.audio)


@torch.inference_mode()
def test_seams_fade_from_the_last_synthesis():
    (units,) = replies(TINY, 20)
    samples = 80
    hard = StreamingVocoder(TINY, lookahead=2, crossfade_s=0.0)
    soft = StreamingVocoder(TINY, lookahead=2, crossfade_s=samples / TINY.sample_rate)
    (_, new), (_, faded) = (
        stream(streaming, [units[:10], units[10:]])[0] for streaming in (hard, soft)
    )
    _, state = soft.push(units[:10], soft.start())
    gap = new.audio[:samples] - state.tail
    assert gap.abs().max() > 1e-3
    # It leaves where the last synthesis goes on, and arrives where its own does.
    assert (faded.audio[0] - state.tail[0]).abs() <= gap[0].abs() / samples
    assert (faded.audio[samples - 1] - new.audio[samples - 1]).abs() <= gap[-1].abs() / samples
    between = torch.minimum(state.tail, new.audio[:samples]) - 1e-6
    assert (faded.audio[:samples] >= between).all()
    assert torch.equal(faded.audio[samples:], new.audio[samples:])


def test_pushes_of_several_replies_equal_pushes_one_by_one():
    streaming = StreamingVocoder(TINY)
    first, second, third, fourth = replies(TINY, 37, 60, 8, 3)
    rows = [pieces_of(first, 7), pieces_of(second, 12), pieces_of(third, 3), pieces_of(fourth, 3)]
    alone = [stream(streaming, pieces)[0] for pieces in rows]
    states = [streaming.start() for _ in rows]
    for step in range(max(len(pieces) for pieces in rows)):
        live = [row for row, pieces in enumerate(rows) if step < len(pieces)]
        pushes = [
            Push(units=rows[row][step], state=states[row], final=step == len(rows[row]) - 1)
            for row in live
        ]
        for row, (spoken, state) in zip(live, streaming.push_many(pushes), strict=True):
            states[row] = state
            expected = alone[row][step]
            assert (spoken.first_unit, spoken.end_unit) == (expected.first_unit, expected.end_unit)
            torch.testing.assert_close(spoken.audio, expected.audio, atol=1e-6, rtol=0)
    assert streaming.push_many([]) == []


@pytest.mark.parametrize("pieces", [[[]], [[], [-1], []]], ids=["nothing", "only-negatives"])
def test_no_units_give_no_sound(pieces):
    spoken, _ = stream(StreamingVocoder(TINY), pieces)
    assert all(not len(each.audio) and each.end_unit == 0 for each in spoken)


def test_bfloat16_gives_float32_sound():
    vocoder = UnitVocoder(vocoder_preset("tiny")).to(torch.bfloat16)
    spoken, _ = stream(StreamingVocoder(vocoder), pieces_of(list(range(40)), 10))
    sound = torch.cat([each.audio for each in spoken])
    assert sound.dtype == torch.float32
    assert sound.isfinite().all()


def test_a_vocoder_in_training_is_set_to_evaluation():
    vocoder = UnitVocoder(vocoder_preset("tiny"))
    StreamingVocoder(vocoder)
    assert not vocoder.training


def test_unknown_unit_is_refused():
    with pytest.raises(InputError, match="units must be below 200, got 200"):
        StreamingVocoder(TINY).push([3, 200], _start())


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"lookahead": -1}, "lookahead must be at least 0 units, got -1"),
        ({"crossfade_s": -0.001}, "crossfade_s must be between 0 and one frame"),
        (
            {"crossfade_s": 0.021},
            r"crossfade_s must be between 0 and one frame \(0.02 s\), got 0.0",
        ),
    ],
    ids=["lookahead", "negative-crossfade", "long-crossfade"],
)
def test_impossible_knob_is_refused(knobs, message):
    with pytest.raises(ConfigError, match=message):
        StreamingVocoder(TINY, **knobs)


def test_frame_rate_follows_the_vocoder():
    config = VocoderConfig(
        sample_rate=500,
        num_units=9,
        embedding_dim=4,
        initial_channels=8,
        upsample_rates=[5],
        upsample_kernel_sizes=[11],
        duration_hidden_dim=4,
    )
    vocoder = UnitVocoder(config).eval()
    streaming = StreamingVocoder(vocoder, lookahead=vocoder.receptive_field, crossfade_s=0.01)
    spoken, _ = stream(streaming, pieces_of([1, 5, 2, 8, 0, 3] * 20, 16))
    sound = torch.cat([each.audio for each in spoken])
    torch.testing.assert_close(sound, offline(vocoder, [1, 5, 2, 8, 0, 3] * 20), atol=1e-4, rtol=0)


def test_default_lookahead_is_within_the_smallest_chunk():
    assert TINY.duration_context <= DEFAULT_LOOKAHEAD < 10
