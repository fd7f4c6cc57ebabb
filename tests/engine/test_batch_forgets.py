"""A conversation that grows too long: its beginning is left out, and it goes on."""

import pytest

from llama_omni.errors import CapacityError
from llama_omni.interfaces import Turn
from tests.engine.batch_tools import (
    alone,
    ask,
    check_empty,
    make_engine,
    make_parts,
    options,
    run,
    sound,
)

SYSTEM = Turn(role="system", text="be brief")


@pytest.fixture(scope="module")
def parts():
    return make_parts()


def question(number):
    if number % 3 == 2:
        return Turn(role="user", audio=sound(number, 0.8))
    return Turn(role="user", text=f"{number} " + "long " * 10)


def test_a_long_talk_goes_on_without_its_beginning(parts):
    engine = make_engine(parts)
    engine.open(1)
    engine.replace(1, [SYSTEM])
    forgotten, reused = [], []
    for number in range(24):
        before = engine.turns(1)
        asked = question(number)
        reused_before = engine.numbers().reused_positions
        generation = ask(engine, 1, asked)
        forgotten.append(engine._talks[1].forgotten)
        found = run(engine).reply(1, generation)
        reused.append(engine.numbers().reused_positions - reused_before)
        kept = [before[0], *before[1 + 2 * forgotten[-1] :]]
        assert found.token_ids == alone(parts, asked, history=kept).token_ids
    assert len(engine.turns(1)) == 1 + 2 * 24  # the history itself is whole
    assert forgotten == sorted(forgotten)
    assert forgotten[-1] > 5
    steps = len({*forgotten})
    assert 2 <= steps <= 12  # several exchanges at a time, not one with every turn
    assert sum(count > 100 for count in reused) >= 12  # so the cache is of use for every other turn
    engine.close(1)
    check_empty(engine)


def test_no_more_is_forgotten_than_must_be_and_few_prompts_are_tried(parts, monkeypatch):
    talk = [turn for n in range(60) for turn in (question(n), Turn(role="assistant", text="yes"))]
    engine = make_engine(parts)
    engine.open(1)
    measured = []
    positions = engine._asking._positions

    def measure(turns):
        measured.append(len(turns))
        return positions(turns)

    monkeypatch.setattr(engine._asking, "_positions", measure)
    engine.replace(1, [SYSTEM, *talk])
    ask(engine, 1, question(60))
    forgotten, half = engine._talks[1].forgotten, engine._stepper.llm_cache.max_tokens // 2
    assert len(measured) <= 8  # a long talk is not worded anew for each exchange
    assert positions([SYSTEM, *talk[2 * forgotten :], question(60)]) <= half
    assert positions([SYSTEM, *talk[2 * (forgotten - 1) :], question(60)]) > half
    engine.close(1)


def test_what_was_forgotten_may_be_deleted(parts):
    engine = make_engine(parts)
    engine.open(1)
    for number in range(16):
        ask(engine, 1, question(number))
        run(engine)
    assert engine._talks[1].forgotten > 2
    engine.replace(1, engine.turns(1)[-2:])
    generation = ask(engine, 1, question(99))
    assert engine._talks[1].forgotten <= 1
    assert run(engine).reply(1, generation).finish_reason in ("stop", "length")
    engine.close(1)


def test_forgetting_can_be_left_to_the_caller(parts):
    talk = [turn for n in range(24) for turn in (question(n), Turn(role="assistant", text="yes"))]
    engine = make_engine(parts, forget=False)
    engine.open(1)
    engine.replace(1, talk)
    with pytest.raises(CapacityError, match="drop early turns"):
        ask(engine, 1, question(1))
    engine = make_engine(parts)
    engine.open(2)
    with pytest.raises(CapacityError, match="drop early turns"):  # out of band: as it was given
        ask(engine, 2, question(1), options(), history=talk)
