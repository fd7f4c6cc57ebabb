"""The server with a real engine in its own process, and the command that joins them."""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
from serve_tools import SILENCE, SPEECH, Client, run, serving, settled, sound_of, talking
from session_tools import names, only
from websockets.exceptions import ConnectionClosed

from llama_omni.interfaces import ReplyOptions
from llama_omni.remote.client import RemoteEngine
from llama_omni.remote.factory import Factory
from llama_omni.serve.limits import ModelFacts
from llama_omni.serve.serve_settings import ServeSettings

ROOT = Path(__file__).parents[2]
PATIENCE_S = 240.0  # processes that load torch, on a busy machine


def facts(tokens):
    options = ReplyOptions(chunk_size=5, temperature=3.0)
    return ModelFacts(max_output_tokens=tokens, options=options)


@pytest.mark.slow  # by default: test_remote.py's killed process, test_app.py's and _faults' fakes
def test_killed_engine_ends_replies_cleanly_and_comes_back():
    async def talk():
        engine = RemoteEngine(Factory("tests.remote.engines:make"))
        settings = ServeSettings(model=facts(300), drain_s=2.0)
        try:
            await engine.start(PATIENCE_S)
            async with serving(engine, settings) as running:
                async with httpx.AsyncClient(base_url=running.http) as http:
                    assert (await http.get("/readyz")).status_code == 200
                    async with talking(running) as client:
                        await spoken_turns(client)
                        await client.ask()
                        await client.until("response.created")
                        os.kill(engine.pid, signal.SIGKILL)
                        events = await client.until("response.done")
                        assert only(events, "error")["error"]["code"] == "engine_failed"
                        assert events[-1]["response"]["status"] == "failed"
                        assert (await http.get("/readyz")).status_code == 503
                        await client.send("response.create")  # while it is away
                        events = await client.until("response.done")
                        assert events[-1]["response"]["status"] == "failed"
                        await settled(lambda: engine.ready, PATIENCE_S)
                        assert (await http.get("/readyz")).status_code == 200
                        await client.send("response.create")
                        events = await client.until("response.done")
                        assert events[-1]["response"]["status"] in ("completed", "incomplete")
                    await settled(lambda: not engine._conversations)
        finally:
            await engine.close()

    run(talk(), 2 * PATIENCE_S)


async def spoken_turns(client):
    """Two spoken turns, each interrupted; the small model hears at most 1 s."""
    for _ in range(2):
        await client.say((400, SILENCE), (400, SPEECH), (1_000, SILENCE))
        events = await client.until("response.output_audio.delta")
        item = only(events, "response.output_item.added")["item"]["id"]
        await client.say((400, SPEECH), (100, SILENCE))
        events += await client.until("response.done")
        assert events[-1]["response"]["status"] in ("completed", "incomplete", "cancelled")
        await client.send(
            "conversation.item.truncate", item_id=item, content_index=0, audio_end_ms=20
        )
        await client.send("input_audio_buffer.clear")
        await client.until("input_audio_buffer.cleared")
        assert np.isfinite(sound_of(events)).all()
    kinds = names(client.events)
    assert kinds.count("conversation.item.truncated") == 2
    assert kinds.count("response.created") == kinds.count("response.done")


KEY = "sk-0123456789abcdef"


class Command:
    """`llama-omni serve` in a process of its own, ready to talk to."""

    def __init__(self, process):
        self.process, self.log, self.port = process, [], None

    async def ready(self):
        while self.port is None:
            line = (await self.process.stderr.readline()).decode()
            assert line, "".join(self.log)
            self.log.append(line)
            found = re.search(r"talk at http://127\.0\.0\.1:(\d+)/", line)
            self.port = int(found[1]) if found else None

    def client(self):
        return openai.AsyncOpenAI(api_key=KEY, websocket_base_url=f"ws://127.0.0.1:{self.port}/v1")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)

    async def ended(self):
        """Wait for the process; return its code and all it has said."""
        self.log.append((await self.process.stderr.read()).decode())
        return await self.process.wait(), "".join(self.log)


@contextlib.asynccontextmanager
async def command(*arguments):
    words = [sys.executable, "-m", "llama_omni.cli", "serve", "--port", "0"]
    words += ["--preset", "tiny", "--random-weights", *arguments]
    env = {**os.environ, "LLAMA_OMNI_API_KEY": KEY, "PYTHONUNBUFFERED": "1"}
    process = await asyncio.create_subprocess_exec(
        *words, cwd=ROOT, env=env, stderr=subprocess.PIPE, limit=2**20
    )
    try:
        made = Command(process)
        await made.ready()
        yield made
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def test_command_serves_and_drains_at_sigterm(tmp_path):
    recorded = ["--record", str(tmp_path / "kept"), "--recognizer", "pocketsphinx"]

    async def talk():
        async with command("--max-new-tokens", "60", *recorded) as server:
            client = server.client()
            async with client, client.realtime.connect(model="any") as connection:
                one = Client(connection)
                await one.until("session.created")
                await one.ask("my secret question")
                await one.until("response.output_audio.delta", PATIENCE_S)
                server.stop()
                events = await one.until("response.done", PATIENCE_S)
                assert events[-1]["response"]["status"] in ("completed", "incomplete")
            code, text = await server.ended()
        assert "Traceback" not in text, text
        assert "drained left=0" in text
        assert KEY[:7] not in text
        assert "secret question" not in text
        assert code == 0, text
        (kept,) = (tmp_path / "kept").iterdir()
        assert "secret question" in (kept / "events.jsonl").read_text()
        assert not kept.name.endswith(".partial")

    run(talk(), 3 * PATIENCE_S)


@pytest.mark.slow
def test_second_sigterm_hurries_the_command():
    async def talk():
        async with command("--max-new-tokens", "1000", "--drain-s", "1000") as server:
            client = server.client()
            async with client, client.realtime.connect(model="any") as connection:
                one = Client(connection)
                await one.until("session.created")
                await one.ask()
                await one.until("response.output_audio.delta", PATIENCE_S)
                server.stop()
                async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as http:
                    while (await http.get("/readyz")).json()["status"] != "draining":
                        await asyncio.sleep(0.05)
                server.stop()
                with pytest.raises(ConnectionClosed):
                    await one.until("response.done", PATIENCE_S)
            code, text = await server.ended()
        assert "Traceback" not in text, text
        assert "drained left=1" in text
        assert code == 0, text

    run(talk(), 3 * PATIENCE_S)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["--host", "0.0.0.0"], "without keys", id="open to all"),
        pytest.param(["--port", "70000"], "0 to 65535", id="port"),
        pytest.param(["--preset", "huge"], "--preset must be", id="preset"),
        pytest.param(["--origin", "example.org"], "origins must be", id="origin"),
        pytest.param(["--tls-key", "absent.pem"], "needs both", id="half of TLS"),
        pytest.param(["--api-keys", "absent.txt"], "readable", id="no keys"),
        pytest.param(["--max-batch", "0"], "max_rows must be", id="batch"),
        pytest.param(["--cache-mib", "0"], "cache_bytes must be", id="cache"),
        pytest.param(["--hang-s", "0"], "hang_s must be", id="hang"),
        pytest.param(["--max-turn-s", "0.01"], "min_turn_s", id="turn"),
        pytest.param(["--max-per-address", "-1"], "max_per_address must be", id="address"),
    ],
)
def test_command_refuses_what_cannot_work(arguments, message, capsys, monkeypatch):
    from llama_omni.cli import main

    monkeypatch.delenv("LLAMA_OMNI_API_KEY", raising=False)
    assert main(["serve", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["--record", "/dev/null/here"], "can be written", id="record"),
        pytest.param(["--recognizer", "ears"], "recognizer must be one of", id="recognizer"),
    ],
)
def test_command_refuses_what_it_sees_when_it_starts(arguments, message):
    words = [sys.executable, "-m", "llama_omni.cli", "serve", "--port", "0", *arguments]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("llama-omni: error: ")
    assert message in last
    assert "Traceback" not in done.stderr


def test_command_names_the_extra_that_is_missing(capsys, monkeypatch):
    from llama_omni import cli_serve
    from llama_omni.cli import main

    monkeypatch.setattr(cli_serve, "_NEEDED", ("no_such_package",))
    assert main(["serve"]) == 2
    assert "llama-omni[serve]" in capsys.readouterr().err


def test_server_loads_no_torch():
    code = "import sys, json, llama_omni.serve.running, llama_omni.serve.app, llama_omni.cli_serve"
    code += ", llama_omni.remote.client; from llama_omni.serve.vad import SileroVad; SileroVad()"
    code += "; print(json.dumps(sorted({'torch', 'transformers'} & set(sys.modules))))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert json.loads(done.stdout) == []
