"""What the clients of a load say, and one that drives an engine without a model."""

import asyncio
from collections import Counter
from random import Random
from time import monotonic

import numpy as np
import pytest

from benchmarks.serve_load import main
from llama_omni.bench.serve import speech
from llama_omni.bench.serve.direct import DirectTalker
from llama_omni.bench.serve.settings import DirectSettings, LoadSettings
from llama_omni.bench.serve.speech import Utterance, paused, questions, trimmed
from llama_omni.errors import CapacityError, EngineError, InputError, ToolError
from llama_omni.interfaces import ReplyOptions, Voice
from llama_omni.remote.messages import EngineNumbers
from tests.serve.fake_engine import FakeEngine

RATE = 16_000
VOICE = np.full(RATE, 0.5, np.float32)  # 1 s


def test_silence_around_a_voice_is_cut_off():
    silence = np.zeros(RATE // 2, np.float32)
    assert len(trimmed(np.concatenate([silence, VOICE, silence]))) == RATE
    with pytest.raises(InputError, match="must hold a voice"):
        trimmed(silence)


def test_pause_is_put_where_the_voice_is_quietest():
    quiet = VOICE.copy()
    quiet[6_400:6_720] = 0.1  # one frame of 20 ms, at 0.4 s
    plain = Utterance(sound=quiet, sample_rate=RATE)
    said = paused(plain, Random(1), share=1.0, lasts=(0.25, 0.25))
    assert said.pauses == ((0.41, 0.66),)
    assert said.lasts_s == 1.25
    inside = said.sound[round(0.41 * RATE) : round(0.66 * RATE)]
    assert abs(inside).max() < 0.005
    assert np.array_equal(said.sound[:6_400], quiet[:6_400])
    assert np.array_equal(said.sound[-RATE // 2 :], quiet[-RATE // 2 :])
    assert paused(plain, Random(1), share=0.0, lasts=(0.25, 0.25)) is plain


def test_share_of_pauses_does_not_change_what_is_drawn_next():
    first, second = Random(3), Random(3)
    plain = Utterance(sound=VOICE, sample_rate=RATE)
    paused(plain, first, share=0.0, lasts=(0.2, 0.3))
    paused(plain, second, share=0.0, lasts=(0.2, 0.3))
    assert first.random() == second.random()


class Speaker:
    voices = (Voice(name="fake:a", sample_rate=RATE, licence="none"),)

    def __init__(self):
        self.said = []

    def say(self, text, *, voice, speed=1.0, pitch=1.0):
        self.said.append(text)
        return VOICE

    def close(self):
        pass


def test_each_question_is_spoken_once(monkeypatch, tmp_path):
    speaker = Speaker()
    monkeypatch.setattr(speech, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(speech, "open_synthesizer", lambda _: speaker)
    found = questions(sample_rate=24_000)
    assert len(found) == len(set(speaker.said)) == speech.QUESTIONS
    assert {one.lasts_s for one in found} == {1.0}
    questions(sample_rate=24_000)
    assert len(speaker.said) == speech.QUESTIONS


def test_example_is_asked_where_nothing_speaks(monkeypatch, tmp_path):
    def absent(_):
        raise ToolError("flite must be installed, found none")

    monkeypatch.setattr(speech, "open_synthesizer", absent)
    assert len(questions(sample_rate=RATE)) == 1
    monkeypatch.setattr(speech, "EXAMPLE", tmp_path / "none.wav")
    with pytest.raises(InputError, match="must be spoken or recorded, got neither: flite"):
        questions(sample_rate=RATE)


# The engine, directly


class Engine(FakeEngine):
    numbers = EngineNumbers()


def talked(engine, *, turns=1, speculate=True, pause=None, waiting=0, **direct):
    settings = LoadSettings(
        turns=turns, gap_s=(0.001, 0.001), inner_pauses=0.0 if pause is None else 1.0,
        inner_pause_s=pause or (0.2, 0.2), answer_s=60.0,
    )  # fmt: skip
    talker = DirectTalker(
        number=3,
        engine=engine,
        numbers=lambda: EngineNumbers(waiting=waiting),
        questions=[Utterance(sound=VOICE[: RATE // 4], sample_rate=RATE)],
        options=ReplyOptions(),
        settings=settings,
        direct=DirectSettings(**direct),
        speculate=speculate,
        counted=Counter(),
    )

    async def run():
        async with asyncio.timeout(90):
            await talker.talk(starts=monotonic(), ends=monotonic() + 60)

    asyncio.run(run())
    return talker


def test_direct_client_hears_every_piece_and_gives_everything_back():
    engine = Engine(words=3)
    talker = talked(engine, turns=2)
    assert [turn.outcome for turn in talker.turns] == ["answered"] * 2
    assert [turn.pieces for turn in talker.turns] == [3, 3]
    assert talker.turns[0].sound_s == pytest.approx(0.6)
    assert talker.turns[0].stopped_s >= 0.5
    assert talker.counted == {"begun": 2, "used": 2}
    assert engine.open == []


def test_direct_client_drops_what_it_prepared_at_a_pause():
    engine = Engine()
    talker = talked(engine, pause=(0.3, 0.3))
    assert talker.counted == {"begun": 2, "used": 1, "dropped": 1}
    heard = [len(asked[-1].audio) / RATE for asked in engine.talks[0].asked]
    assert heard[1] == pytest.approx(0.25 + 0.3 + 0.1)  # question, pause, post-roll
    assert heard[0] < 0.25 + 0.1
    assert talked(Engine(), pause=(0.1, 0.1)).counted == {"begun": 1, "used": 1}


def test_direct_client_does_not_speculate_where_it_is_off_or_the_engine_is_full():
    assert talked(Engine(), speculate=False).counted == {}
    assert talked(Engine(), waiting=1).counted == {"left_out": 1}


def test_listener_who_has_heard_enough_cuts_the_answer():
    engine = Engine(words=400, pace_s=0.01)  # 80 s of sound
    talker = talked(engine, turns=2, listen_s=0.2)
    assert [turn.outcome for turn in talker.turns] == ["answered"] * 2
    assert 1 <= talker.turns[0].pieces < 400
    heard_s = engine.talks[0].heard[0] / RATE
    assert 0.1 <= heard_s < 40


@pytest.mark.parametrize(
    ("failure", "outcome", "detail"),
    [
        (CapacityError("full"), "refused", "no room"),
        (EngineError("gone"), "failed", "EngineError"),
    ],
    ids=["full", "gone"],
)
def test_direct_client_says_why_there_is_no_answer(failure, outcome, detail):
    engine = Engine()
    engine.failure = failure
    (turn,) = talked(engine).turns
    assert (turn.outcome, turn.detail) == (outcome, detail)


# The command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "8b"], "a preset must be driven directly (--direct)"),
        (["--preset", "huge", "--direct"], "huge"),
        (["--clients", "2,1"], "clients must grow"),
        (["--tokens", "0", "--direct"], "tokens must be at least 1"),
    ],
    ids=["not direct", "unknown", "clients", "tokens"],
)
def test_command_refuses_what_cannot_work(arguments, message, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
