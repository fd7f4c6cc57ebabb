"""The real application in front of the embedded model's own process, and what goes wrong there."""

import asyncio
import os
import re
import signal
import sys
import wave
from pathlib import Path

import httpx
import pytest
from serve_tools import serving, settled, sound_of, talking
from session_tools import only

from llama_omni.remote.client import RemoteEngine
from llama_omni.remote.factory import Factory
from llama_omni.serve.serve_settings import ServeSettings

ROOT = Path(__file__).parents[2]
PATIENCE_S = 240.0  # a process that loads torch, on a busy machine
QUESTION, ANSWER = "What is the capital of France?", "The capital of France is Paris."
SLOW = "Tell me slowly what the capital of France is."


class Stage:
    """An engine for all tests of this file, in one event loop."""

    def __init__(self, runner):
        self.runner = runner
        self.engine = None

    async def start(self):
        self.engine = RemoteEngine(Factory("tests.remote.engines:embedded"))
        await self.engine.start(PATIENCE_S)

    def play(self, talk, **settings):
        async def main():
            async with asyncio.timeout(2 * PATIENCE_S):
                settings_ = ServeSettings(**{"send_timeout_s": 5.0, "drain_s": 5.0, **settings})
                async with serving(self.engine, settings_) as running:
                    await talk(running)
                    await settled(lambda: not running.realtime._connections, PATIENCE_S)
                await settled(lambda: not self.engine._conversations, PATIENCE_S)
                await settled(lambda: self.engine.numbers.conversations == 0, PATIENCE_S)
                assert self.engine.numbers.speaking == self.engine.numbers.waiting == 0

        self.runner.run(main())


@pytest.fixture(scope="module")
def stage():
    with asyncio.Runner() as runner:
        made = Stage(runner)
        runner.run(made.start())
        try:
            yield made
        finally:
            runner.run(made.engine.close())


async def answered(running):
    """A new session gets the right answer, with sound."""
    async with talking(running) as client:
        await client.ask(QUESTION)
        events = await client.until("response.done", PATIENCE_S)
        item = events[-1]["response"]["output"][0]
        assert item["content"][0]["transcript"] == ANSWER
        assert len(sound_of(events)) > 24_000


async def begin_slow_reply(client, seconds=PATIENCE_S):
    await client.ask(SLOW)
    await client.until("response.output_audio_transcript.delta", seconds)


async def failed(client):
    events = await client.until("response.done", PATIENCE_S)
    assert only(events, "error")["error"]["code"] == "engine_failed"
    assert events[-1]["response"]["status"] == "failed"
    return only(events, "error")["error"]["message"]


def test_client_of_the_readme_gets_its_answer(stage, tmp_path):
    """Run the block as it stands, but for the port."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(import base64.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert "127.0.0.1:8000" in block
    (tmp_path / "examples").symlink_to(ROOT / "examples")

    async def talk(running):
        code = block.replace("127.0.0.1:8000", f"127.0.0.1:{running.port}")
        client = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", code), cwd=tmp_path, stdout=asyncio.subprocess.PIPE
        )
        said, _ = await client.communicate()
        assert client.returncode == 0
        assert said.decode().strip() == ANSWER
        with wave.open(str(tmp_path / "said.wav")) as file:
            assert file.getframerate() == 24_000
            assert file.getnframes() > 24_000

    stage.play(talk)


def test_client_killed_in_a_reply_gives_everything_back(stage):
    async def talk(running):
        engine, tasks = stage.engine, len(asyncio.all_tasks())
        cancelled = engine.numbers.cancelled
        async with running.client() as stock:
            connection = await stock.realtime.connect(model="any").enter()
            await connection.recv()
            for kind, item in (("conversation.item.create", MESSAGE), ("response.create", None)):
                await connection.send({"type": kind, **({"item": item} if item else {})})
            while (await connection.recv()).type != "response.output_audio_transcript.delta":
                pass
            assert engine.numbers.conversations == 1
            socket = connection._connection
            socket.transport.abort()
            await settled(lambda: not running.realtime._connections, PATIENCE_S)
            await settled(lambda: engine.numbers.conversations == 0, PATIENCE_S)
            assert engine.numbers.speaking == 0
            assert engine.numbers.cancelled == cancelled + 1
            await socket.wait_closed()
            await settled(lambda: len(asyncio.all_tasks()) <= tasks, PATIENCE_S)
        await answered(running)

    stage.play(talk)


def test_reply_that_raises_in_the_engine_fails_alone(stage):
    async def talk(running):
        async with talking(running) as bad, talking(running) as good:
            await good.ask(QUESTION)
            await bad.ask("How is it done badly?")
            events, message = await asyncio.gather(
                good.until("response.done", PATIENCE_S), failed(bad)
            )
            item = events[-1]["response"]["output"][0]
            assert item["content"][0]["transcript"] == ANSWER
            assert "secret" not in message
            await bad.ask(QUESTION)
            events = await bad.until("response.done", PATIENCE_S)
            assert events[-1]["response"]["status"] == "completed"
        assert stage.engine.ready

    restarts = stage.engine.restarts
    stage.play(talk)
    assert stage.engine.restarts == restarts


def killed(engine):
    os.kill(engine.pid, signal.SIGKILL)


def hung(engine):
    """Stop it, as a driver that hangs would: it lives and gives no sign of it."""
    os.kill(engine.pid, signal.SIGSTOP)
    engine.hang_s = 0.5


@pytest.mark.parametrize("fault", [killed, hung], ids=["killed", "hung"])
def test_engine_that_goes_in_a_reply_ends_it_cleanly_and_comes_back(stage, fault):
    async def talk(running):
        engine, restarts, pid = stage.engine, stage.engine.restarts, stage.engine.pid
        async with (
            talking(running) as one,
            talking(running) as two,
            httpx.AsyncClient(base_url=running.http) as http,
        ):
            await asyncio.gather(begin_slow_reply(one), begin_slow_reply(two))
            fault(engine)
            await asyncio.gather(failed(one), failed(two))
            engine.hang_s = 60.0
            answer = await http.get("/readyz")
            assert (answer.status_code, answer.json()) == (503, {"status": "engine not ready"})
            assert (await http.get("/healthz")).status_code == 200
            await settled(lambda: engine.ready, PATIENCE_S)
            assert (await http.get("/readyz")).status_code == 200
            assert engine.restarts == restarts + 1
            assert engine.pid != pid
            await one.ask(QUESTION)  # the same session goes on
            events = await one.until("response.done", PATIENCE_S)
            assert events[-1]["response"]["status"] == "completed"
        await answered(running)

    stage.play(talk)


def test_peer_that_vanishes_without_a_word_is_noticed_by_pings(stage):
    async def talk(running):
        wire = Wire(running.port)
        server = await asyncio.start_server(wire.join, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server:
            lost = await connect_at(port)
            await lost.recv()
            assert len(running.realtime._connections) == 1
            wire.cut = True  # neither end is told
            async with talking(running) as client:
                await settled(lambda: len(running.realtime._connections) == 1, PATIENCE_S)
                await client.ask(QUESTION)
                await client.until("response.done", PATIENCE_S)
            lost.transport.abort()
            await lost.wait_closed()
            wire.close()

    stage.play(talk, ping_s=2.0)


class Wire:
    """A line between a client and the server that can go dead without closing."""

    def __init__(self, port):
        self.port, self.cut, self.writers, self.tasks = port, False, [], []

    async def join(self, reader, writer):
        other_reader, other_writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writers += [writer, other_writer]
        pairs = (reader, other_writer), (other_reader, writer)
        self.tasks = [asyncio.create_task(self.carry(*pair)) for pair in pairs]

    async def carry(self, reader, writer):
        while data := await reader.read(65_536):
            if not self.cut:
                writer.write(data)

    def close(self):
        for task in self.tasks:
            task.cancel()
        for writer in self.writers:
            writer.close()


async def connect_at(port):
    from websockets.asyncio.client import connect

    return await connect(f"ws://127.0.0.1:{port}/v1/realtime", ping_interval=None)


CONTENT = [{"type": "input_text", "text": SLOW}]
MESSAGE = {"type": "message", "role": "user", "content": CONTENT}
