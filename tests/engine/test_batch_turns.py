"""Replies made before they are wanted, cancelled, and cut to what was heard."""

import pytest
import torch

from llama_omni.interfaces import Turn
from tests.engine.batch_tools import (
    Clock,
    Seen,
    alone,
    ask,
    check_empty,
    make_engine,
    make_parts,
    options,
    run,
    sound,
)

FIRST, SECOND = sound(0, 0.9), sound(1, 0.6)
LONG = options(max_new_tokens=40)


@pytest.fixture(scope="module")
def parts():
    return make_parts()


@pytest.fixture
def engine(parts):
    made = make_engine(parts, cheap_rows=0, prepare_s=0.5)
    made.open(1)
    yield made
    made.close(1)
    check_empty(made)


def test_prepared_reply_equals_the_committed_one(engine, parts):
    generation = engine.prepare(1, FIRST, options())
    seen = Seen()
    for _ in range(5):
        seen.take(engine.step())
    assert engine.turns(1) == ()
    engine.commit(1, generation)
    assert engine.turns(1)[0].role == "user"
    run(engine, seen)
    assert seen.reply(1, generation).token_ids == alone(parts, FIRST).token_ids
    assert engine.turns(1)[1].token_ids == seen.reply(1, generation).token_ids


def test_prepared_reply_stops_when_enough_is_ready_and_goes_on_when_committed(engine, parts):
    generation = engine.prepare(1, FIRST, LONG)
    seen = run(engine)
    ready = seen.sounds(1, generation)
    assert ready
    assert not seen.ended(1, generation)
    assert ready[-1].end_sample / ready[0].sample_rate < 2 * engine.settings.prepare_s + 1
    engine.commit(1, generation)
    assert run(engine, seen).reply(1, generation).units == alone(parts, FIRST, LONG).units


def test_reply_that_was_done_before_its_commit_joins_the_history_then(engine):
    generation = engine.prepare(1, FIRST, options(max_new_tokens=3))
    seen = run(engine)
    assert seen.ended(1, generation)
    assert engine.turns(1) == ()
    engine.commit(1, generation)
    assert [turn.role for turn in engine.turns(1)] == ["user", "assistant"]
    ask(engine, 1, SECOND)
    run(engine)


@pytest.mark.parametrize("steps", [0, 1, 3, 60])
def test_abandoned_reply_leaves_nothing_behind(engine, parts, steps):
    engine.prepare(1, FIRST, options())
    for _ in range(steps):
        engine.step()
    engine.abandon(1, 1)
    assert not engine.has_work
    assert engine.turns(1) == ()
    assert not engine._stepper.speech_cache.lengths
    generation = ask(engine, 1, SECOND)
    assert run(engine).reply(1, generation).token_ids == alone(parts, SECOND).token_ids


def test_newly_prepared_reply_takes_the_place_of_the_last(engine, parts):
    old = engine.prepare(1, FIRST, options())
    engine.step()
    new = engine.prepare(1, SECOND, options())
    engine.commit(1, old)  # too late: does nothing
    engine.commit(1, new)
    seen = run(engine)
    assert (1, old) not in seen.events
    assert seen.reply(1, new).token_ids == alone(parts, SECOND).token_ids
    assert engine.numbers().abandoned == 1


@pytest.mark.parametrize("steps", [0, 1, 2, 5, 9])
def test_cancel_at_any_moment_ends_the_reply_once_and_keeps_the_history_true(engine, parts, steps):
    generation = ask(engine, 1, FIRST, LONG)
    seen = Seen()
    for _ in range(steps):
        seen.take(engine.step())
    engine.cancel(1, generation - 1)  # a stale one does nothing
    engine.cancel(1, generation)
    run(engine, seen)
    reply = seen.reply(1, generation)
    assert reply.finish_reason == "cancelled"
    assert len(reply.token_ids) < 40
    assert not engine._stepper.speech_cache.lengths
    assert engine.turns(1)[0].audio is not None  # the question stays
    history = engine.turns(1)
    assert [turn.token_ids for turn in history[1:]] == ([reply.token_ids] if steps else [])
    again = ask(engine, 1, SECOND)
    expected = alone(parts, SECOND, history=history)
    assert run(engine).reply(1, again).token_ids == expected.token_ids


def whole_tokens(vocoder, reply, samples):
    """Count the first tokens whose units have all been heard, from the units' durations alone."""
    if samples == len(reply.audio):
        return len(reply.token_ids)
    with torch.inference_mode():
        frames = vocoder.durations(torch.tensor([reply.units]))[0]
    ends = (frames.cumsum(0) * vocoder.hop).tolist()
    late = [t for t, end in zip(reply.unit_tokens, ends, strict=True) if end > samples]
    return late[0] if samples else 0


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_truncated_answer_is_as_if_only_what_was_heard_had_been_said(engine, parts, share):
    generation = ask(engine, 1, FIRST, LONG)
    reply = run(engine).reply(1, generation)
    positions = engine._talks[1].context.length
    samples = int(share * len(reply.audio))
    rest = engine.truncate(1, samples)
    history = engine.turns(1)
    kept = 0 if rest is None else len(rest.token_ids)
    assert history[1:] == ((rest,) if rest is not None else ())
    assert kept == whole_tokens(parts[1], reply, samples)
    if rest is not None:
        assert rest.token_ids == reply.token_ids[:kept]
        assert reply.text.startswith(rest.text)
    context = engine._talks[1].context
    expected = positions if share == 1.0 else positions - 39 + kept
    assert engine._stepper.llm_cache.lengths[context.slot] == context.length == expected
    again = ask(engine, 1, SECOND)
    found = run(engine).reply(1, again)
    fresh = alone(parts, SECOND, history=history)
    assert found.token_ids == fresh.token_ids
    assert found.units == fresh.units


def test_truncating_a_running_reply_cancels_it_and_then_cuts_it(engine):
    generation = ask(engine, 1, FIRST, LONG)
    seen = Seen()
    while not seen.sounds(1, generation):
        seen.take(engine.step())
    heard = seen.sounds(1, generation)[0].end_sample
    engine.truncate(1, heard)
    run(engine, seen)
    reply = seen.reply(1, generation)
    assert reply.finish_reason == "cancelled"
    (_, answer) = engine.turns(1)
    assert 0 < len(answer.token_ids) <= len(reply.token_ids)
    assert engine._talks[1].context.length < 200


def test_answer_before_the_last_can_be_cut_while_another_is_made(engine, parts):
    first = ask(engine, 1, FIRST, LONG)
    run(engine)
    second = ask(engine, 1, SECOND)
    seen = Seen()
    seen.take(engine.step())
    engine.truncate(1, 4_000, first)
    assert run(engine, seen).reply(1, second).token_ids
    history = engine.turns(1)
    assert len(history) == 4
    assert len(history[1].token_ids) < 40
    third = ask(engine, 1, FIRST)
    expected = alone(parts, FIRST, history=history)
    assert run(engine).reply(1, third).token_ids == expected.token_ids


def test_history_can_be_added_to_replaced_and_answered_as_it_is(engine, parts):
    engine.add(1, Turn(role="user", text="what is it"))
    generation = ask(engine, 1, None)
    found = run(engine).reply(1, generation)
    assert found.token_ids == alone(parts, Turn(role="user", text="what is it")).token_ids
    assert [turn.role for turn in engine.turns(1)] == ["user", "assistant"]
    engine.replace(1, engine.turns(1)[1:])
    assert [turn.role for turn in engine.turns(1)] == ["assistant"]


def test_reply_out_of_band_leaves_the_history_as_it_is(engine, parts):
    ask(engine, 1, FIRST)
    run(engine)
    before = engine.turns(1)
    other = [Turn(role="user", text="name a colour")]
    generation = ask(engine, 1, None, history=other)
    found = run(engine).reply(1, generation)
    assert found.token_ids == alone(parts, other[0]).token_ids
    assert engine.turns(1) == before
    again = ask(engine, 1, SECOND)
    expected = alone(parts, SECOND, history=before)
    assert run(engine).reply(1, again).token_ids == expected.token_ids


def test_chunks_grow_with_what_the_listener_has_buffered(parts):
    sizes = {}
    for growth in (0.0, 0.5):
        engine = make_engine(parts, chunk_growth=growth)
        engine.open(1)
        generation = ask(engine, 1, FIRST, options(max_new_tokens=60, chunk_size=3))
        sounds = run(engine).sounds(1, generation)
        sizes[growth] = [len(event.audio) for event in sounds]
    assert sizes[0.0][0] == sizes[0.5][0]
    assert max(sizes[0.5]) > 2 * max(sizes[0.0])
    assert len(sizes[0.5]) < len(sizes[0.0]) / 2


def test_reply_far_ahead_yields_to_a_newcomer_and_gets_its_turn_when_played(parts):
    clock = Clock()
    engine = make_engine(parts, clock=clock, cheap_rows=0, far_ahead_s=1.0, chunk_growth=0.0)
    engine.open(1)
    engine.open(2)
    ask(engine, 1, FIRST, options(max_new_tokens=100))
    job = engine._talks[1].job
    while job.playback.ahead_s(clock.now) < 1.0:
        engine.step()
    made = len(job.builder.tokens)
    newcomer = ask(engine, 2, SECOND, options(max_new_tokens=30))
    seen = Seen()
    while not seen.sounds(2, newcomer):
        seen.take(engine.step())
    assert len(job.builder.tokens) == made
    clock.now += 30.0
    seen.take(engine.step())
    assert len(job.builder.tokens) == made + 1
