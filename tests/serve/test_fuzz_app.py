"""Any frames in any order over a real socket: each answer is valid, each response ends.

The session alone is fuzzed in `test_session_rules.py`; here are the reader, the detector's thread,
the replies' tasks, the writer and the socket with it.
"""

import asyncio
import base64
import json

import numpy as np
import pytest
from fake_engine import FakeEngine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serve_tools import Client, Stock, answered_to, serving, settled, talking
from session_tools import pcm
from test_session_rules import ITEM_IDS, ITEMS, RESPONSES, SCRAPS, SESSIONS

from llama_omni.serve.limits import ModelFacts, SessionLimits
from llama_omni.serve.protocol import CLIENT_EVENTS
from llama_omni.serve.serve_settings import ServeSettings

SPOKEN = base64.b64encode(np.full(14_400, 30_000, "<i2").tobytes()).decode()  # 0.6 s of voice


def event(kind, **fields):
    return st.fixed_dictionaries({"type": st.just(kind), **fields}).map(json.dumps)


def append(*sounds):
    return event("input_audio_buffer.append", audio=st.sampled_from(sounds))


LEGAL = st.one_of(
    event("session.update", session=SESSIONS),
    append(pcm(20), pcm(300), SPOKEN),
    append(SPOKEN),
    append(pcm(1_000)),
    st.sampled_from(["input_audio_buffer.commit", "input_audio_buffer.clear"]).flatmap(event),
    event("output_audio_buffer.clear"),
    event("conversation.item.create", item=ITEMS),
    event("conversation.item.delete", item_id=ITEM_IDS),
    event("conversation.item.retrieve", item_id=ITEM_IDS),
    event(
        "conversation.item.truncate",
        item_id=ITEM_IDS,
        content_index=st.just(0),
        audio_end_ms=st.integers(0, 900),
    ),
    event("response.create", response=RESPONSES),
    event("response.create"),
    event("response.cancel"),
)
ILLEGAL = st.one_of(
    st.text(max_size=20),
    st.binary(max_size=9),
    append("AAAA", "?", "é", "A" * 3_000_000),
    st.dictionaries(
        st.sampled_from(["type", "session", "item", "item_id", "audio", "response", "event_id"]),
        st.one_of(SCRAPS, st.sampled_from(sorted(CLIENT_EVENTS))),
    ).map(json.dumps),
    st.just("[" * 50_000),
    st.just('{"type": "session.update", "type": 1}'),
)
WAIT = st.sampled_from([0.0, 0.01, 0.05])  # seconds in which replies go on
FRAMES = st.lists(st.one_of(LEGAL, LEGAL, LEGAL, ILLEGAL, WAIT), max_size=20)


@pytest.fixture(scope="module")
def stage():
    engine = FakeEngine(words=4, pace_s=0.005)
    limits = SessionLimits(max_items=12, max_out_of_band=1, max_audio_s=5.0, max_turn_s=2.0)
    chosen = ServeSettings(
        model=ModelFacts(recognizer=True), limits=limits, send_timeout_s=30.0, drain_s=30.0
    )
    with asyncio.Runner() as runner:
        server = serving(engine, chosen, recognizer=Deaf())
        running = runner.run(server.__aenter__())
        try:
            yield runner, engine, running
        finally:
            runner.run(server.__aexit__(None, None, None))


class Deaf:
    def transcribe(self, audio):
        if len(audio) % 3 == 0:
            raise RuntimeError("deaf")
        return "something"


@given(FRAMES)
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_any_frames_over_a_real_socket(stage, frames):
    runner, engine, running = stage

    async def play():
        async with asyncio.timeout(120), running.socket() as socket:
            client = Client(Stock(socket))
            for frame in frames:
                if isinstance(frame, float):
                    await asyncio.sleep(frame)
                else:
                    await socket.send(frame)
            await client.send("conversation.item.retrieve", item_id="no such", event_id="last")
            await answered_to(client, "last")
            while "open" in client.wire.responses.values():
                await client.take()
        await settled(lambda: not running.realtime._connections, 60)
        await settled(lambda: not engine.open, 60)
        assert running.number("llama_omni_sessions_closed_total", code="1011") == 0

    runner.run(play())


def test_next_session_works_after_all_of_them(stage, caplog):
    runner, _, running = stage

    async def play():
        async with talking(running) as client:
            await client.ask()
            events = await client.until("response.done")
            assert events[-1]["response"]["status"] == "completed"

    runner.run(play())
    assert "session failed" not in caplog.text
