"""The server with the stock client: what goes in, what comes out, frame by frame."""

import time

import numpy as np
from fake_engine import FakeEngine
from serve_tools import SILENCE, SPEECH, run, serving, settled, sound_of, talking
from session_tools import names, only


def words(events):
    kind = "response.output_audio_transcript.delta"
    return "".join(event["delta"] for event in events if event["type"] == kind)


def test_written_question_gets_a_spoken_answer():
    async def talk():
        engine = FakeEngine()
        async with serving(engine) as running, talking(running) as client:
            await client.ask()
            events = await client.until("response.done")
            assert words(events) == " w0 w1 w2"
            assert len(sound_of(events)) == 3 * 4_800
            assert events[-1]["response"]["status"] == "completed"
            assert engine.talks[0].asked[0][-1].text == "What is two and two?"

    run(talk())


def test_spoken_question_gets_a_spoken_answer_and_so_does_the_next():
    async def talk():
        engine = FakeEngine()
        async with serving(engine) as running, talking(running) as client:
            for turn in range(2):
                await client.say((400, SILENCE), (800, SPEECH), (1_000, SILENCE))
                events = await client.until("response.done")
                assert only(events, "input_audio_buffer.speech_started")
                assert events[-1]["response"]["status"] == "completed"
                assert len(sound_of(events)) == 3 * 4_800
                talk = engine.talks[0]
                assert len(talk.turns) == 2 * (turn + 1)
                assert talk.asked[-1][-1].audio.shape[0] > 12_000
            assert talk.replaced == 0  # the engine's history is the session's
            assert running.number("llama_omni_speculation_total", outcome="used") == 2
            assert running.number("llama_omni_responses_total", status="completed") == 2
            name = "llama_omni_first_audio_seconds_count"
            assert running.number(name, prepared="yes") == 2

    run(talk())


def test_interruption_by_voice_cuts_the_answer_to_what_was_heard():
    async def talk():
        engine = FakeEngine(words=40, pace_s=0.02)
        async with serving(engine) as running, talking(running) as client:
            await client.say((400, SILENCE), (800, SPEECH), (1_000, SILENCE))
            before = await client.until("response.output_audio.delta")
            before += await client.until("response.output_audio.delta")
            await client.say((400, SPEECH))
            after = await client.until("response.done")
            assert "input_audio_buffer.speech_started" in names(after)
            details = after[-1]["response"]["status_details"]
            assert details["reason"] == "turn_detected"
            item = only(before, "response.output_item.added")["item"]["id"]
            await client.send(
                "conversation.item.truncate", item_id=item, content_index=0, audio_end_ms=400
            )
            await client.until("conversation.item.truncated")
            assert engine.talks[0].heard == [6_400]
            await client.say((800, SILENCE))
            events = await client.until("response.output_audio.delta")
            assert "response.created" in names(events)
            answers = [t.text for t in engine.talks[0].turns if t.role == "assistant"]
            assert answers == [" w0 w1"]

    run(talk())


def test_sound_is_the_engines_sound():
    async def talk():
        async with serving(FakeEngine(words=5)) as running, talking(running) as client:
            await client.ask()
            sound = sound_of(await client.until("response.done"))
            spectrum = np.abs(np.fft.rfft(sound[4_800 : 2 * 4_800]))
            assert np.argmax(spectrum) * 24_000 / 4_800 == 300

    run(talk())


def test_health_models_and_metrics():
    async def ask():
        engine = FakeEngine()
        async with serving(engine) as running, running.client() as client:
            assert [model.id async for model in client.models.list()] == ["llama-omni"]
            assert (await client.models.retrieve("llama-omni")).object == "model"
            get = client._client.get
            assert (await get(f"{running.http}/healthz")).json() == {"status": "ok"}
            assert (await get(f"{running.http}/readyz")).status_code == 200
            engine.ready = False
            assert (await get(f"{running.http}/readyz")).status_code == 503
            answer = await get(f"{running.http}/metrics")
            assert "llama_omni_engine_ready 0.0" in answer.text

    run(ask())


def test_lag_of_the_event_loop_is_measured():
    async def block():
        name = "llama_omni_event_loop_lag_seconds"
        async with serving() as running:
            await settled(lambda: running.number(f"{name}_count") > 0)
            late = running.number(f"{name}_count") - running.number(f"{name}_bucket", le="0.2")
            time.sleep(0.5)  # what nobody may do
            await settled(
                lambda: (
                    running.number(f"{name}_count") - running.number(f"{name}_bucket", le="0.2")
                    > late
                )
            )

    run(block())
