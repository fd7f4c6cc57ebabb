"""Many sessions at once, out-of-band replies, transcripts, and what replies leave behind."""

import asyncio

import numpy as np
import pytest
from fake_engine import FakeEngine
from serve_tools import SILENCE, SPEECH, run, serving, settled, sound_of, talking
from session_tools import names, only

from llama_omni.serve.limits import ModelFacts
from llama_omni.serve.serve_settings import ServeSettings


class Echo(FakeEngine):
    """Answers with as many words as the question has letters, so that answers differ."""

    def conversation(self, system=None):
        talk = super().conversation(system)
        ask = talk.prepare

        def prepare(question, *arguments, **named):
            talk.engine = FakeEngine(words=len(question.text), pace_s=0.001)
            return ask(question, *arguments, **named)

        talk.prepare = prepare
        return talk


def test_many_sessions_each_get_their_own_answer():
    async def talk():
        async with serving(Echo()) as running:

            async def one(number):
                async with talking(running) as client:
                    for turn in range(2):
                        await client.ask("x" * (number + turn + 1))
                        events = await client.until("response.done")
                        assert len(sound_of(events)) == 4_800 * (number + turn + 1)

            await asyncio.gather(*(one(number) for number in range(16)))
            await settled(lambda: not running.realtime.engine.open)

    run(talk())


def test_reply_out_of_band_runs_beside_and_leaves_nothing():
    async def talk():
        engine = FakeEngine(words=20, pace_s=0.01)
        async with serving(engine) as running, talking(running) as client:
            await client.ask()
            await client.until("response.output_audio.delta")
            await client.send(
                "response.create",
                response={"conversation": "none", "output_modalities": ["text"]},
            )
            events = await client.until("response.done") + await client.until("response.done")
            assert {e["response"]["status"] for e in events if e["type"] == "response.done"} == {
                "completed"
            }
            assert "response.output_text.delta" in names(events)
            await settled(lambda: len(engine.open) == 1)
            assert len(engine.open[0].turns) == 2

    run(talk())


def test_next_reply_waits_for_the_cancelled_ones_last_words():
    async def talk():
        engine = FakeEngine(words=20, pace_s=0.05)
        async with serving(engine) as running, talking(running) as client:
            await client.ask("one")
            await client.until("response.output_audio.delta")
            await client.send("response.cancel")
            await client.ask("two")
            events = await client.until("response.done")
            assert events[-1]["response"]["status"] == "cancelled"
            events = await client.until("response.done")
            assert events[-1]["response"]["status"] == "completed"
            roles = [turn.role for turn in engine.talks[0].turns]
            assert roles == ["user", "assistant", "user", "assistant"]

    run(talk())


def test_cancel_before_the_reply_could_begin():
    async def talk():
        engine = FakeEngine(words=20, pace_s=0.05)
        async with serving(engine) as running, talking(running) as client:
            await client.ask("one")
            await client.until("response.output_audio.delta")
            for _ in range(3):
                await client.send("response.cancel")
                await client.send("response.create", response={"instructions": "again"})
            for _ in range(4):
                events = await client.until("response.done")
            assert events[-1]["response"]["status"] == "completed"
            assert len(engine.talks[0].asked) == 2  # the two between were never begun

    run(talk())


def test_speculation_is_left_out_where_it_is_off_or_the_engine_busy():
    async def talk(busy):
        engine = FakeEngine()
        engine.numbers = type("Numbers", (), {"waiting": 3})()
        settings = ServeSettings(model=ModelFacts(speculate=busy), drain_s=2.0)
        async with serving(engine, settings) as running, talking(running) as client:
            await client.say((400, SILENCE), (800, SPEECH), (1_000, SILENCE))
            await client.until("response.done")
            assert running.number("llama_omni_speculation_total", outcome="used") == 0
            left_out = running.number("llama_omni_speculation_total", outcome="left_out")
            assert left_out == int(busy)
            assert running.number("llama_omni_engine_waiting") == 3

    run(talk(True))
    run(talk(False))


def test_pause_within_a_turn_drops_what_was_prepared():
    async def talk():
        engine = FakeEngine()
        async with serving(engine) as running, talking(running) as client:
            parts = (400, SILENCE), (800, SPEECH), (300, SILENCE), (800, SPEECH), (1_000, SILENCE)
            await client.say(*parts)
            events = await client.until("response.done")
            assert names(events).count("response.created") == 1
            assert running.number("llama_omni_speculation_total", outcome="dropped") == 1
            assert running.number("llama_omni_speculation_total", outcome="used") == 1
            assert len(engine.talks[0].turns) == 2

    run(talk())


class Words:
    """A recogniser that knows how long the sound is."""

    def transcribe(self, audio):
        if np.abs(audio).max() < 0.5:
            raise RuntimeError("nothing heard")
        return f"{len(audio)} samples"


@pytest.mark.parametrize("level", [SPEECH, 0.1], ids=["heard", "failed"])
def test_transcript_of_what_was_said(level):
    async def talk():
        async with serving(recognizer=Words()) as running, talking(running) as client:
            transcription = {"transcription": {"model": "any"}, "turn_detection": None}
            session = {"type": "realtime", "audio": {"input": transcription}}
            await client.send("session.update", session=session)
            await client.say((1_000, level))
            await client.send("input_audio_buffer.commit")
            kind = "conversation.item.input_audio_transcription"
            kind += ".completed" if level == SPEECH else ".failed"
            events = await client.until(kind)
            if level == SPEECH:
                assert only(events, kind)["transcript"] == "16000 samples"

    run(talk())
