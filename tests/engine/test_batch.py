"""The engine with many conversations: each gets what it would get alone, and none stops another."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_omni.errors import AudioError, CapacityError, InputError
from llama_omni.interfaces import ReplyDone, ReplyFailed, TextDelta, Turn
from tests.engine.batch_tools import (
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

QUESTIONS = [sound(seed, seconds) for seed, seconds in enumerate((0.4, 0.9, 0.6, 0.5))]


@pytest.fixture(scope="module")
def parts():
    return make_parts()


@pytest.fixture(scope="module")
def serial(parts):
    """Return what each question, option by option, gets with nobody else there."""
    known = {}

    def answer(question, **changes):
        key = (question, *sorted(changes.items()))
        if key not in known:
            known[key] = alone(parts, QUESTIONS[question], options(**changes))
        return known[key]

    return answer


def same(found, expected):
    assert found.token_ids == expected.token_ids
    assert found.units == expected.units
    assert found.text == expected.text
    assert len(found.audio) == len(expected.audio)


def test_questions_have_answers_of_their_own(serial):
    assert len({serial(index).token_ids for index in range(len(QUESTIONS))}) == len(QUESTIONS)


@pytest.mark.parametrize("growth", [0.0, 0.5], ids=["fixed", "growing"])
def test_batch_gives_each_conversation_its_own_answer(parts, serial, growth):
    engine = make_engine(parts, chunk_growth=growth)
    made = {}
    for key in range(len(QUESTIONS)):
        engine.open(key)
        made[key] = ask(engine, key, QUESTIONS[key])
    seen = run(engine)
    for key, generation in made.items():
        same(seen.reply(key, generation), serial(key))
        sounds = [event.audio for event in seen.sounds(key, generation)]
        np.testing.assert_array_equal(np.concatenate(sounds), seen.reply(key, generation).audio)
        engine.close(key)
    check_empty(engine)


def test_fixed_chunks_sound_as_they_do_alone(parts):
    engine = make_engine(parts, chunk_growth=0.0)
    lone = make_engine(parts, chunk_growth=0.0)
    lone.open(9)
    generation = ask(lone, 9, QUESTIONS[1])
    expected = run(lone).reply(9, generation)
    made = {}
    for key, question in enumerate(QUESTIONS):
        engine.open(key)
        made[key] = ask(engine, key, question)
    found = run(engine).reply(1, made[1])
    np.testing.assert_allclose(found.audio, expected.audio, atol=1e-5)
    assert found.sample_tokens == expected.sample_tokens


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_joins_leaves_and_cancels_at_random_times_change_no_answer(parts, serial, seed):
    chance = random.Random(seed)
    engine = make_engine(
        parts,
        prefill_positions=chance.choice([5, 40, 256]),
        max_rows=chance.choice([2, 64]),
        cheap_rows=0,
    )
    seen, running, keys = Seen(), {}, iter(range(1_000))
    for _ in range(60):
        if chance.random() < 0.3 and len(running) < 6:
            key = next(keys)
            question, changes = chance.randrange(len(QUESTIONS)), {}
            if chance.random() < 0.5:
                changes = {"temperature": 2.0, "seed": chance.randrange(3)}
            if chance.random() < 0.2:
                changes["speech"] = False
            engine.open(key)
            running[key] = (ask(engine, key, QUESTIONS[question], options(**changes)), question)
            running[key] += (changes,)
        if running and chance.random() < 0.15:
            key = chance.choice(list(running))
            if chance.random() < 0.5:
                engine.close(key)
                del running[key]
            else:
                engine.cancel(key, running[key][0])
        seen.take(engine.step())
    run(engine, seen)
    for key, (generation, question, changes) in running.items():
        found, expected = seen.reply(key, generation), serial(question, **changes)
        if found.finish_reason == "cancelled":
            assert found.token_ids == expected.token_ids[: len(found.token_ids)]
        else:
            same(found, expected)
        engine.close(key)
    check_empty(engine)


def test_newcomer_stalls_nobody_for_more_than_a_steps_bound(parts):
    engine = make_engine(parts, prefill_positions=8)
    engine.open(1)
    ask(engine, 1, QUESTIONS[1], options(max_new_tokens=50))
    while not engine.numbers().speaking:
        engine.step()
    engine.open(2)
    ask(engine, 2, Turn(role="user", text="x" * 100))
    steps = 0
    while engine.numbers().speaking == 1:
        read, tokens = engine.numbers().read_positions, engine.numbers().tokens
        engine.step()
        assert engine.numbers().read_positions - read <= 8
        assert engine.numbers().tokens >= tokens + 1  # the other one's next token
        steps += 1
    assert steps > 100 // 8


def test_text_comes_before_the_sound_of_its_tokens(parts):
    engine = make_engine(parts)
    engine.open(1)
    generation = ask(engine, 1, QUESTIONS[0])
    written = 0
    for event in run(engine).events[1, generation]:
        if isinstance(event, TextDelta):
            written = event.end_token
        elif not isinstance(event, ReplyDone):
            assert event.end_token <= written + 1  # a stop token is not written
            assert len(event.token_ends) == event.end_token - event.first_token
            assert event.token_ends[-1] == event.end_sample


@pytest.mark.parametrize("where", ["listen", "prefill", "step", "vocoder", "text"])
def test_one_failing_conversation_fails_alone(parts, serial, monkeypatch, where):
    engine = make_engine(parts, chunk_growth=0.0, prefill_positions=8)
    for key in range(3):
        engine.open(key)
    made = {key: ask(engine, key, QUESTIONS[key]) for key in range(3)}
    bad = engine._talks[1]
    if where == "listen":
        hear = engine._intake._hear
        monkeypatch.setattr(
            engine._intake, "_hear", lambda job, *rest: hear(job, *rest) if job.key != 2 else 1 / 0
        )
    elif where == "text":
        monkeypatch.setattr(bad.job.builder, "take", lambda *_: 1 / 0)
    else:
        run_until = Seen()
        while bad.context is None:
            run_until.take(engine.step())
        slot = bad.context.slot
        if where == "prefill":
            monkeypatch.setattr(bad.context, "advance", lambda _: 1 / 0)
        elif where == "step":
            step = engine._stepper.step
            monkeypatch.setattr(
                engine._stepper,
                "step",
                lambda rows, tokens: (
                    1 / 0 if any(row.llm_slot == slot for row in rows) else step(rows, tokens)
                ),
            )
        else:
            chunk = bad.job.builder.chunk
            monkeypatch.setattr(
                bad.job.builder, "chunk", lambda *a, **k: chunk(*a, **k) and Broken()
            )
    seen = run(engine)
    failed = seen.last(1, made[1])
    assert isinstance(failed, ReplyFailed)
    assert failed.kind == "engine"
    assert "ZeroDivision" not in failed.message
    for key in (0, 2):
        same(seen.reply(key, made[key]), serial(key))
    assert engine.turns(1) == ()  # as if it had never been asked
    again = ask_again(engine, monkeypatch)
    same(again, serial(3))
    for key in range(3):
        engine.close(key)
    check_empty(engine)


def ask_again(engine, monkeypatch):
    monkeypatch.undo()
    generation = ask(engine, 1, QUESTIONS[3])
    return run(engine).reply(1, generation)


class Broken:
    """A push that no vocoder can take."""

    units = ()
    final = False

    @property
    def state(self):
        raise ZeroDivisionError


def test_full_queue_refuses_clearly_and_goes_on(parts, serial):
    one = make_engine(parts)._admission
    small = int(1.5 * (one._llm.bytes_of(1, 64) + one._speech.bytes_of(1, 64)))
    engine = make_engine(parts, cache_bytes=small, max_waiting=2)
    made = {}
    for key in range(3):
        engine.open(key)
        made[key] = ask(engine, key, QUESTIONS[key])
        if key == 0:
            engine.step()
    engine.open(3)
    with pytest.raises(CapacityError, match="at most 2 replies wait for room"):
        ask(engine, 3, QUESTIONS[3])
    assert engine.turns(3) == ()
    assert engine.numbers().refused == 1
    seen = run(engine)
    for key, generation in made.items():
        same(seen.reply(key, generation), serial(key))
    generation = ask(engine, 3, QUESTIONS[3])
    same(run(engine).reply(3, generation), serial(3))


def test_reply_that_can_never_fit_is_refused_at_once(parts):
    engine = make_engine(parts, cache_bytes=1_000)
    engine.open(1)
    with pytest.raises(CapacityError, match=r"must fit 0\.0 MiB of cache"):
        ask(engine, 1, QUESTIONS[0])
    engine = make_engine(parts)
    engine.open(1)
    with pytest.raises(CapacityError, match="must fit 512 positions, got"):
        ask(engine, 1, Turn(role="user", text="x" * 600))
    assert not engine.has_work


def test_caches_stay_within_their_bytes_and_idle_conversations_make_room(parts, serial):
    one = make_engine(parts)._admission
    limit = one._llm.bytes_of(3, 128) + one._speech.bytes_of(1, 64)
    engine = make_engine(parts, cache_bytes=limit)
    seen, made = Seen(), {}
    for key in range(6):
        engine.open(key)
        made[key] = ask(engine, key, QUESTIONS[key % 4])
        while engine.has_work:
            seen.take(engine.step())
            assert engine.numbers().cache_bytes <= limit
    assert engine.numbers().evicted >= 3
    assert all(len(engine.turns(key)) == 2 for key in range(6))
    generation = ask(engine, 0, QUESTIONS[2])  # evicted, and read again from its beginning
    found = run(engine).reply(0, generation)
    history = engine.turns(0)[:2]
    same(found, alone(parts, QUESTIONS[2], history=history))


def test_next_turn_reads_only_what_is_new(parts):
    engine = make_engine(parts)
    engine.open(1)
    ask(engine, 1, QUESTIONS[0])
    run(engine)
    before = engine.numbers()
    generation = ask(engine, 1, QUESTIONS[1])
    found = run(engine).reply(1, generation)
    after = engine.numbers()
    assert after.reused_positions - before.reused_positions > 100
    same(found, alone(parts, QUESTIONS[1], history=engine.turns(1)[:2]))


def test_wrong_calls_are_refused(parts):
    engine = make_engine(parts)
    engine.open(1)
    with pytest.raises(InputError, match="conversation 1 must be new"):
        engine.open(1)
    with pytest.raises(InputError, match="conversation 2 must be open"):
        ask(engine, 2, QUESTIONS[0])
    with pytest.raises(AudioError):
        ask(engine, 1, np.full(16_000, np.nan, dtype=np.float32))
    with pytest.raises(InputError, match="the last turn"):
        ask(engine, 1, None)
    generation = ask(engine, 1, QUESTIONS[0])
    with pytest.raises(InputError, match="one reply at a time"):
        ask(engine, 1, QUESTIONS[0])
    engine.cancel(1, generation)
    with pytest.raises(InputError, match="generation must be above"):
        ask(engine, 1, QUESTIONS[0], generation=generation)
    run(engine)
    engine.close(1)
    engine.close(1)
    check_empty(engine)
