"""The stock client against `llama-omni serve` with the embedded model; every frame is checked."""

import contextlib
from pathlib import Path

import numpy as np
import openai
import pytest
import soundfile
import soxr

pytest.importorskip("fastapi")
from tests.serve.serve_tools import Client, run, sound_of
from tests.serve.session_tools import only
from tests.serve.tiny_server import FRANCE, MADRID, PARIS, spoken

pytestmark = pytest.mark.slow
RATE = 24_000
SECONDS = 120.0


@contextlib.asynccontextmanager
async def talking(address):
    socket = address.replace("http", "ws") + "/v1"
    async with (
        openai.AsyncOpenAI(
            api_key="none", base_url=f"{address}/v1", websocket_base_url=socket
        ) as client,
        client.realtime.connect(model="llama-omni") as connection,
    ):
        one = Client(connection)
        await one.until("session.created")
        yield one


def question(path: Path, silence_s: float = 1.0) -> np.ndarray:
    """Read a recording at 24 kHz, with the silence after it that ends the turn."""
    samples, rate = soundfile.read(path, dtype="float32")
    samples = soxr.resample(samples, rate, RATE)
    return np.concatenate([samples, np.zeros(int(silence_s * RATE), np.float32)])


def said(events):
    return only(events, "response.output_audio_transcript.done")["transcript"]


def test_spoken_questions_are_answered_and_the_second_needs_the_first(tiny_address, tmp_path):
    spain = spoken("What about Spain?", tmp_path / "spain.wav")

    async def talk():
        async with talking(tiny_address) as client:
            for path, answer in ((FRANCE, PARIS), (spain, MADRID)):
                await client.append(question(path))
                events = await client.until("response.done", SECONDS)
                assert only(events, "input_audio_buffer.speech_started")
                assert events[-1]["response"]["status"] == "completed"
                assert said(events).strip() == answer
                sound = sound_of(events)
                assert len(sound) > RATE  # a sentence is more than a second
                assert np.sqrt(np.mean(sound**2)) > 0.01
            assert "error" not in {event["type"] for event in client.events}

    run(talk(), 2 * SECONDS)


def test_voice_interrupts_and_the_answer_is_cut_to_what_was_heard(tiny_address, tmp_path):
    count = spoken("Count from one to twenty.", tmp_path / "count.wav")

    async def talk():
        async with talking(tiny_address) as client:
            await client.append(question(count))
            await client.until("response.output_audio.delta", SECONDS)
            while len(sound_of(client.events)) < RATE:  # of a reply of nearly four seconds
                await client.until("response.output_audio.delta", SECONDS)
            item = only(client.events, "response.output_item.added")["item"]["id"]
            await client.append(question(FRANCE))
            await client.until("input_audio_buffer.speech_started", SECONDS)
            await client.send(
                "conversation.item.truncate", item_id=item, content_index=0, audio_end_ms=700
            )
            await client.until("conversation.item.truncated", SECONDS, item_id=item)
            await client.send("conversation.item.retrieve", item_id=item)
            events = await client.until("conversation.item.retrieved", SECONDS)
            words = events[-1]["item"]["content"][0]["transcript"]
            assert 0 < len(words) < len("One, two, three, four, five, six")
            assert "One, two, three, four, five, six".startswith(words.strip())
            begun = {e["response"]["id"] for e in client.events if e["type"] == "response.created"}
            while len(done := _done(client.events)) < 2:
                await client.take()
            assert begun <= set(done)
            assert [*done.values()][-1] == "completed"
            assert "error" not in {event["type"] for event in client.events}

    run(talk(), 2 * SECONDS)


def _done(events):
    """Give the status of each response that ended, in order."""
    ends = [event["response"] for event in events if event["type"] == "response.done"]
    return {end["id"]: end["status"] for end in ends}
