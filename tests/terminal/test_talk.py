"""A talk with devices that are none and an engine without a model."""

import asyncio

import numpy as np
import pytest

from llama_omni.errors import CapacityError, EngineError, InputError
from tests.serve.fake_engine import PIECE, FakeEngine, tone
from tests.serve.turn_tools import levels
from tests.terminal.terminal_tools import (
    PATIENCE_S,
    RATE,
    FakeMicrophone,
    FakeSpeakers,
    Running,
    Typed,
    talking,
)

SPEECH, SILENCE = 0.9, 0.0
QUESTION = levels((500, SILENCE), (900, SPEECH), (1_000, SILENCE), rate=RATE)
WORDS = "w0 w1 w2"


def run(coroutine):
    async def main():
        async with asyncio.timeout(2 * PATIENCE_S):
            return await coroutine

    return asyncio.run(main())


def num_words(running):
    return running.out.getvalue().count(" w")


@pytest.mark.parametrize("rates", [(24_000, 24_000), (48_000, 44_100), (16_000, 8_000)])
def test_spoken_question_is_answered_in_words_and_sound(rates):
    async def talk():
        microphone, speakers = FakeMicrophone(rates[0]), FakeSpeakers(rates[1])
        how = {"microphone": microphone, "speakers": speakers}
        async with talking(FakeEngine(), **how) as running:
            microphone.hear(levels((500, SILENCE), (900, SPEECH), (1_000, SILENCE), rate=rates[0]))
            await running.until(lambda: running.remarks)
        assert [line.strip() for line in running.answers] == [WORDS]
        (asked,) = (turn.audio for turn in running.engine.talks[0].turns if turn.audio is not None)
        assert abs(len(asked) - 16 * (300 + 900 + 100)) < 16 * 80
        (remark,) = running.remarks
        assert remark.startswith("(first sound after ")
        assert "ms after your voice" in remark
        assert "0.60 s of sound" in remark
        assert abs(len(speakers.heard) / rates[1] - 3 * PIECE / 16_000) < 0.02
        assert microphone.state == speakers.state == "closed"

    run(talk())


def test_sound_is_the_models_own():
    async def talk():
        speakers = FakeSpeakers(16_000)
        async with talking(FakeEngine(words=1), speakers=speakers) as running:
            running.typed.type("Say one word.")
            await running.until(lambda: running.remarks)
        alike = [np.corrcoef(speakers.played[:3_000], tone(0)[k:][:3_000])[0, 1] for k in range(3)]
        assert max(alike) > 0.999

    run(talk())


def test_voice_stops_the_answer_and_keeps_what_was_heard():
    async def talk():
        microphone, speakers = FakeMicrophone(), FakeSpeakers(limit=12_000)
        how = {"microphone": microphone, "speakers": speakers}
        async with talking(FakeEngine(words=20, pace_s=0.001), **how) as running:
            microphone.hear(QUESTION)
            await running.until(lambda: len(speakers.heard) > 11_000)
            await running.until(lambda: speakers._num_sounding >= 12_000)
            microphone.hear(levels((900, SPEECH), (1_000, SILENCE), rate=RATE))
            await running.until(lambda: "(stopped after 0.50 s of sound)" in running.remarks)
            await running.until(lambda: "(heard: w0 w1)" in running.remarks)
            heard = len(speakers.heard)
            speakers.limit = None
            running.engine.words = 2
            await running.until(lambda: running.remarks[-1].startswith("(first sound"))
        one = running.engine.talks[0]
        assert one.heard == [8_000]  # 0.5 s at the model's rate
        assert [turn.text for turn in one.turns if turn.role == "assistant"] == [" w0 w1", " w0 w1"]
        assert len(speakers.heard) - heard < 1.2 * 2 * PIECE * 1.5  # the second answer, no more

    run(talk())


def test_enter_stops_the_answer_and_a_line_asks_the_next():
    async def talk():
        speakers = FakeSpeakers(limit=4_800)
        async with talking(FakeEngine(words=50, pace_s=0.01), speakers=speakers) as running:
            running.typed.type("Count to fifty.")
            await running.until(lambda: speakers._num_sounding >= 4_800)
            running.typed.type("")
            await running.until(lambda: "(heard: w0)" in running.remarks)
            speakers.limit = 7_200
            running.typed.type("Count again.")
            await running.until(lambda: speakers._num_sounding >= 7_200)
            running.typed.type("And again.")
            await running.until(lambda: running.remarks.count("(stopped after 0.10 s of sound)"))
            speakers.limit = None
            await running.until(lambda: len(running.engine.talks[0].asked) == 3)
        questions = [asked[-1].text for asked in running.engine.talks[0].asked]
        assert questions == ["Count to fifty.", "Count again.", "And again."]
        assert running.engine.talks[0].closed

    run(talk())


def test_answer_that_was_stopped_unheard_is_not_remembered():
    async def talk():
        speakers = FakeSpeakers(limit=0)
        async with talking(FakeEngine(words=50, pace_s=0.01), speakers=speakers) as running:
            running.typed.type("Count to fifty.")
            await running.until(lambda: num_words(running) > 2)
            running.typed.type("")
            await running.until(lambda: "(heard nothing)" in running.remarks)
        assert "(stopped after 0.00 s of sound)" in running.remarks
        assert [turn.role for turn in running.engine.talks[0].turns] == ["user"]

    run(talk())


def test_answer_that_was_heard_to_its_end_is_kept_whole():
    async def talk():
        async with talking(FakeEngine(), speakers=FakeSpeakers()) as running:
            for number in (1, 2):
                running.typed.type("Hello.")
                await running.until(lambda count=number: len(running.remarks) == count)
        assert running.engine.talks[0].heard == []
        assert all("0.60 s of sound" in remark for remark in running.remarks)

    run(talk())


def test_lines_of_a_pipe_wait_for_each_answer():
    async def talk():
        running = Running(FakeEngine(pace_s=0.01))
        lines = Typed("One?", "", "Two?", "  ", "Three?", stays=False)
        await running.talk.run(lines, patient=True)
        assert [line.strip() for line in running.answers] == [WORDS] * 3
        assert len(running.remarks) == 3
        assert all(remark.startswith("(first word after ") for remark in running.remarks)
        assert [asked[-1].text for asked in running.engine.talks[0].asked] == [
            "One?",
            "Two?",
            "Three?",
        ]
        running.threads.shutdown()

    run(talk())


def test_written_answer_is_stopped_by_enter():
    async def talk():
        async with talking(FakeEngine(words=5_000, pace_s=0.005)) as running:
            running.typed.type("Count.")
            await running.until(lambda: num_words(running) > 3)
            running.typed.type("")
            await running.until(lambda: running.engine.talks[0].stopped)
            running.engine.words = 3
            running.typed.type("Again.")
            await running.until(lambda: running.remarks)
        assert running.answers[-1].strip() == WORDS
        assert not any("error" in remark for remark in running.remarks)

    run(talk())


@pytest.mark.parametrize("half_duplex", [False, True])
def test_half_duplex_hears_nothing_while_it_speaks(half_duplex):
    async def talk():
        microphone, speakers = FakeMicrophone(piece_ms=20), FakeSpeakers(limit=9_600)
        how = {"microphone": microphone, "speakers": speakers, "half_duplex": half_duplex}
        async with talking(FakeEngine(), **how) as running:
            running.typed.type("Hello.")
            await running.until(lambda: speakers._num_sounding >= 9_600)
            microphone.hear(levels((600, SPEECH), (800, SILENCE), rate=RATE))
            await running.until(lambda: microphone.is_done)
            speakers.limit = None
            await running.until(lambda: running.remarks)
        stopped = any(remark.startswith("(stopped") for remark in running.remarks)
        assert stopped is not half_duplex

    run(talk())


def test_failed_answer_is_told_and_the_next_question_answered():
    async def talk():
        engine = FakeEngine()
        engine.failure = EngineError("the engine has ended")
        async with talking(engine, speakers=FakeSpeakers()) as running:
            running.typed.type("Hello.")
            await running.until(lambda: running.remarks)
            assert running.remarks == ["(error: the engine has ended)"]
            engine.failure = None
            running.typed.type("Hello?")
            await running.until(lambda: len(running.remarks) == 2)
        assert running.answers[-1].strip() == WORDS

    run(talk())


def test_refused_question_is_told_once_and_the_talk_goes_on():
    class Full(FakeEngine):
        """Has no room for the first question."""

        def conversation(self, system=None):
            made = super().conversation(system)
            prepare, asked = made.prepare, []

            def check(question, options=None, **more):
                asked.append(question)
                if len(asked) == 1:
                    raise CapacityError("at most 0 replies wait for room")
                return prepare(question, options, **more)

            made.prepare = check
            return made

    async def talk():
        running = Running(Full())
        await running.talk.run(Typed("One?", "Two?", stays=False), patient=True)
        running.threads.shutdown()
        assert [line.strip() for line in running.answers] == [WORDS]
        errors = [remark for remark in running.remarks if "error" in remark]
        assert errors == ["(error: at most 0 replies wait for room)"]

    run(talk())


def test_device_that_goes_ends_the_talk_and_gives_all_back():
    async def talk():
        microphone, speakers = FakeMicrophone(), FakeSpeakers()
        running = Running(FakeEngine(), microphone=microphone, speakers=speakers)
        task = asyncio.create_task(running.talk.run(running.typed))
        await asyncio.sleep(0.1)
        microphone.failure = InputError("the microphone is gone")
        with pytest.raises(InputError, match="microphone is gone"):
            await task
        running.threads.shutdown()
        assert microphone.state == speakers.state == "closed"
        assert not running.engine.open

    run(talk())


def test_leaving_in_the_middle_of_an_answer_leaves_nothing():
    async def talk():
        before = len(asyncio.all_tasks())
        speakers = FakeSpeakers(limit=4_800)
        running = Running(FakeEngine(words=1_000, pace_s=0.01), speakers=speakers)
        task = asyncio.create_task(running.talk.run(running.typed))
        running.typed.type("Count.")
        while speakers._num_sounding < 4_800:
            await asyncio.sleep(0.01)
        running.talk.leave()
        await task
        running.threads.shutdown()
        assert len(asyncio.all_tasks()) == before
        assert not running.engine.open
        assert running.out.getvalue().endswith("\n")

    run(talk())
