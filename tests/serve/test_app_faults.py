"""What goes wrong with a client, and what the server then does: never a trace, never a leak."""

import asyncio
import base64
import gc
import json
import weakref

import pytest
from fake_engine import GONE, FakeEngine
from serve_tools import Client, Stock, run, serving, settled, talking
from session_tools import check_frame, names, only
from websockets.exceptions import ConnectionClosed, InvalidStatus

from llama_omni.serve.limits import SessionLimits
from llama_omni.serve.serve_settings import ServeSettings

PATIENT = {"send_timeout_s": 5.0, "drain_s": 5.0}


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        pytest.param("{", "invalid_json", id="no JSON"),
        pytest.param("[1, 2]", "invalid_type", id="a list"),
        pytest.param(b"\x00\x01\x02", "invalid_frame", id="binary"),
        pytest.param(b"", "invalid_frame", id="empty binary"),
        pytest.param("", "invalid_json", id="empty text"),
        pytest.param('{"type": "what"}', "invalid_value", id="unknown type"),
        pytest.param('{"type": "response.cancel"}', "response_cancel_not_active", id="cancel"),
        pytest.param(
            '{"type": "input_audio_buffer.commit"}', "input_audio_buffer_commit_empty", id="empty"
        ),
        pytest.param(
            '{"type": "input_audio_buffer.append", "audio": "?"}', "invalid_base64", id="base64"
        ),
        pytest.param(
            '{"type": "input_audio_buffer.append", "audio": "AAAA"}', "invalid_audio", id="odd"
        ),
    ],
)
def test_bad_frame_gets_an_error_and_the_session_goes_on(frame, code):
    async def talk():
        async with serving() as running, running.socket() as socket:
            await socket.recv()
            await socket.send(frame)
            event = json.loads(await socket.recv())
            check_frame(event)
            assert event["error"]["code"] == code
            await socket.send('{"type": "session.update", "session": {"type": "realtime"}}')
            assert json.loads(await socket.recv())["type"] == "session.updated"
            assert running.number("llama_omni_errors_total", code=code) == 1

    run(talk())


def test_session_that_ended_is_freed_without_the_garbage_collector():
    async def talk():
        async with serving() as running:
            made, begin = [], running.realtime.new_session

            def new_session(patch=None):
                session = begin(patch)
                made.append(weakref.ref(session))
                return session

            running.realtime.new_session = new_session
            for vanishes in (False, True):
                async with running.socket() as socket:
                    client = Client(Stock(socket))
                    await client.ask()
                    await client.until("response.created" if vanishes else "response.done")
                    if vanishes:
                        socket.transport.abort()
            await settled(lambda: not running.realtime._connections)
            await settled(lambda: not any(session() for session in made), seconds=60.0)
            assert len(made) == 2

    gc.disable()
    try:
        run(talk())
    finally:
        gc.enable()


def test_large_event_is_refused_and_a_huge_one_closes():
    async def talk():
        limits = SessionLimits(max_event_bytes=600_000)
        async with serving(settings=ServeSettings(limits=limits, **PATIENT)) as running:
            async with running.socket() as socket:
                await socket.recv()
                await socket.send(" " * 600_001)
                event = json.loads(await socket.recv())
                assert event["error"]["code"] == "event_too_large"
                await socket.send(" " * 3_000_000)
                assert await end(socket.recv) == 1009
            async with talking(running) as client:
                await client.ask()
                await client.until("response.done")

    run(talk())


def test_flood_of_errors_closes():
    async def talk():
        settings = ServeSettings(limits=SessionLimits(max_errors=5), **PATIENT)
        async with serving(settings=settings) as running, running.socket() as socket:
            for _ in range(5):
                await socket.send("{")
            assert await end(socket.recv) == 1008
            await settled(lambda: not running.realtime._connections)

    run(talk())


def test_client_killed_in_a_reply_leaves_nothing():
    async def talk():
        engine = FakeEngine(words=1_000, pace_s=0.01)
        async with serving(engine) as running:
            before = {task for task in asyncio.all_tasks()}
            socket = await running.socket()
            client = Client(Stock(socket))
            await client.until("session.created")
            await client.ask()
            await client.until("response.output_audio.delta")
            socket.transport.abort()
            await settled(lambda: not engine.open)
            await settled(lambda: not running.realtime._connections)
            await settled(lambda: running.number("llama_omni_sessions_open") == 0)
            await socket.wait_closed()
            await settled(lambda: len(asyncio.all_tasks()) <= len(before))
            async with talking(running) as other:
                await other.ask()
                await other.until("response.output_audio.delta")

    run(talk())


def test_client_that_does_not_read_is_closed_and_holds_up_nobody():
    async def talk():
        engine = FakeEngine(words=2_000)
        settings = ServeSettings(
            max_unsent_bytes=200_000, limits=SessionLimits(max_session_s=None), **PATIENT
        )
        async with serving(engine, settings) as running:
            deaf = await running.socket(max_queue=1)
            client = Client(Stock(deaf))
            await client.until("session.created")
            await client.ask()
            deaf.transport.pause_reading()
            async with talking(running) as other:
                engine.words = 3
                await other.ask()
                await other.until("response.done")
                await settled(lambda: len(running.realtime._connections) == 1)
            assert running.number("llama_omni_sessions_closed_total", code="1008") == 1
            deaf.transport.abort()

    run(talk())


def test_engine_failure_is_told_and_the_next_question_answered():
    async def talk():
        engine = FakeEngine(words=50, pace_s=0.01)
        async with serving(engine) as running, talking(running) as client:
            await client.ask()
            await client.until("response.output_audio.delta")
            engine.failure = GONE
            events = await client.until("response.done")
            assert only(events, "error")["error"]["code"] == "engine_failed"
            assert events[-1]["response"]["status"] == "failed"
            engine.failure, engine.words = None, 3
            await client.send("response.create")
            events = await client.until("response.done")
            assert events[-1]["response"]["status"] == "completed"

    run(talk())


def test_unforeseen_failure_tells_the_client_nothing_of_its_inside(caplog):
    async def talk():
        engine = FakeEngine()
        engine.failure = RuntimeError("secret place 42")
        async with serving(engine) as running, talking(running) as client:
            await client.ask()
            events = await client.until("response.done")
            assert "secret" not in json.dumps(events)
            assert events[-1]["response"]["status"] == "failed"

    run(talk())
    assert "secret place 42" in caplog.text  # with its trace, in the log


def test_drain_lets_the_answer_end_and_begins_nothing():
    async def talk():
        engine = FakeEngine(words=30, pace_s=0.02)
        async with serving(engine) as running, talking(running) as busy, talking(running) as idle:
            await busy.ask()
            await busy.until("response.output_audio.delta")
            running.server.should_exit = True
            assert await end(idle.take) == 1001
            with pytest.raises(InvalidStatus, match="503"):
                await running.socket()
            await busy.send("response.create", response={"conversation": "none"})
            events = await busy.until("response.done")
            assert events[-1]["response"]["status"] == "completed"
            assert only(events, "error")["error"]["code"] == "server_shutting_down"
            assert await end(busy.take) == 1001
            await settled(lambda: not engine.open)

    run(talk())


def test_session_ends_at_its_longest():
    async def talk():
        limits = SessionLimits(max_session_s=0.5)
        settings = ServeSettings(limits=limits, **PATIENT)
        async with serving(settings=settings) as running, talking(running) as client:
            assert await end(client.take) == 1000
            assert names(client.events)[-1] == "error"
            assert client.events[-1]["error"]["code"] == "session_expired"

    run(talk())


def test_flood_of_right_events_holds_up_nobody():
    async def talk():
        async with serving() as running, running.socket() as flooding, talking(running) as client:

            async def flood():
                for _ in range(5_000):
                    await flooding.send('{"type": "input_audio_buffer.clear"}')

            async def drink():
                for _ in range(5_001):
                    await flooding.recv()

            flooded = asyncio.gather(flood(), drink())
            await client.ask()
            events = await client.until("response.done")
            assert events[-1]["response"]["status"] == "completed"
            await flooded

    run(talk(), 240.0)


@pytest.mark.parametrize(
    "event",
    [
        {"type": "conversation.item.delete", "item_id": "nobody"},
        {"type": "conversation.item.retrieve", "item_id": "nobody"},
        {
            "type": "conversation.item.truncate",
            "item_id": "nobody",
            "content_index": 0,
            "audio_end_ms": 5,
        },
        {"type": "conversation.item.create", "previous_item_id": "nobody", "item": {}},
        {"type": "response.cancel", "response_id": "nobody"},
    ],
    ids=lambda event: event["type"],
)
def test_unknown_name_gets_an_error_that_repeats_the_events_own(event):
    async def talk():
        async with serving() as running, talking(running) as client:
            await client.connection.send({**event, "event_id": "mine"})
            error = (await client.take())["error"]
            assert error["event_id"] == "mine"
            await client.ask()
            events = await client.until("response.done")
            assert events[-1]["response"]["status"] == "completed"

    run(talk())


def test_log_holds_neither_keys_nor_sound_nor_words(caplog):
    caplog.set_level("DEBUG", "llama_omni")
    key, wrong = "sk-0123456789abcdef", "sk-fedcba9876543210"
    sound = base64.b64encode(bytes(range(48)) * 100).decode()

    async def talk():
        settings = ServeSettings(keys=(key,), **PATIENT)
        assert key not in repr(settings)
        async with serving(settings=settings, recognizer=Spy()) as running:
            with pytest.raises(InvalidStatus, match="401"):
                await running.socket(additional_headers={"authorization": f"Bearer {wrong}"})
            async with running.client(key) as stock:
                secret = (await stock.realtime.client_secrets.create()).value
            async with talking(running, secret) as client:
                heard = {"transcription": {"model": "any"}, "turn_detection": None}
                session = {"type": "realtime", "audio": {"input": heard}}
                await client.send("session.update", session=session)
                await client.send("input_audio_buffer.append", audio=sound)
                await client.send("input_audio_buffer.append", audio=sound)
                await client.send("input_audio_buffer.commit")
                kind = "conversation.item.input_audio_transcription.completed"
                await client.until(kind)
                await client.ask("my secret question")
                await client.until("response.done")
            return secret

    secret = run(talk())
    assert "session=sess_" in caplog.text
    assert "refused code=invalid_api_key" in caplog.text
    assert "ERROR" not in caplog.text  # who is refused in words has broken nothing
    for hidden in (key, wrong, secret, sound[:40], "secret question", "secret words", "w0 w1"):
        assert hidden not in caplog.text


class Spy:
    """A recogniser."""

    def transcribe(self, audio):
        return "my secret words"


async def end(take):
    """Take what comes to the end; return the code that the server closed with."""
    try:
        while True:
            await take()
    except ConnectionClosed as closed:
        return closed.rcvd.code
