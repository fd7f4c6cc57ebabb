"""A real server on a free port in the test's event loop, and stock clients for it."""

import asyncio
import base64
import contextlib
import json

import numpy as np
import openai
from fake_engine import FakeEngine
from session_tools import Wire
from turn_tools import LevelVad, levels
from websockets.asyncio.client import connect

from llama_omni.serve.app import create_app
from llama_omni.serve.running import Address, DrainingServer
from llama_omni.serve.serve_settings import ServeSettings

SPEECH, SILENCE = 0.9, 0.0


class Running:
    """A server that runs."""

    def __init__(self, app, server, port):
        self.app, self.server, self.port = app, server, port
        self.realtime = app.state.server
        self.http, self.ws = f"http://127.0.0.1:{port}", f"ws://127.0.0.1:{port}/v1/realtime"

    def client(self, key="not needed here"):
        return openai.AsyncOpenAI(
            api_key=key, base_url=f"{self.http}/v1", websocket_base_url=self.ws[: -len("/realtime")]
        )

    def socket(self, **options):
        return connect(self.ws, **{"max_size": None, **options})

    def number(self, name, **labels):
        """Read one metric."""
        text = self.realtime.metrics.text().decode()
        wanted = name + ("{" + ",".join(f'{k}="{v}"' for k, v in labels.items()) + "}")
        wanted = wanted if labels else name
        lines = [line for line in text.splitlines() if line.startswith(wanted + " ")]
        return float(lines[0].rsplit(" ", 1)[1]) if lines else 0.0


@contextlib.asynccontextmanager
async def serving(engine=None, settings=None, **options):
    app = create_app(
        engine or FakeEngine(),
        settings or ServeSettings(send_timeout_s=5.0, drain_s=5.0),
        **{"make_vad": LevelVad, **options},
    )
    address = Address(port=0)
    bound, server = address.bind(), DrainingServer(app, address)
    with contextlib.closing(bound):
        task = asyncio.create_task(server._serve([bound]))  # without its signal handlers
        while not server.started:
            await asyncio.sleep(0.005)
        try:
            yield Running(app, server, bound.getsockname()[1])
        finally:
            server.should_exit = True
            await task


class Client:
    """The stock client's connection; each frame it gets is checked."""

    def __init__(self, connection):
        self.connection, self.wire, self.events = connection, Wire(), []

    async def send(self, kind, **fields):
        await self.connection.send({"type": kind, **fields})

    async def until(self, kind, seconds=90.0, **fields):
        """Take events up to one of a type; return all of them."""
        taken = []
        async with asyncio.timeout(seconds):
            while True:
                event = await self.take()
                taken.append(event)
                if event["type"] == kind and all(event[k] == v for k, v in fields.items()):
                    return taken

    async def take(self):
        frame = await self.connection.recv_bytes()
        event = json.loads(frame)
        self.wire.see(event)
        self.events.append(event)
        return event

    async def ask(self, text="What is two and two?"):
        content = [{"type": "input_text", "text": text}]
        item = {"type": "message", "role": "user", "content": content}
        await self.send("conversation.item.create", item=item)
        await self.send("response.create")

    async def say(self, *parts, step_ms=100):
        """Append sound of (ms, level) pairs."""
        await self.append(levels(*parts, rate=24_000), step_ms=step_ms)

    async def append(self, samples, step_ms=100):
        """Append sound at 24 kHz, in pieces of 4,800 bytes as stock clients do."""
        data = np.rint(samples * 32_767).astype("<i2").tobytes()
        step = 48 * step_ms
        for first in range(0, len(data), step):
            piece = base64.b64encode(data[first : first + step]).decode()
            await self.send("input_audio_buffer.append", audio=piece)


class Stock:
    """A bare socket with the stock connection's two methods."""

    def __init__(self, socket):
        self.socket = socket

    async def send(self, event):
        await self.socket.send(json.dumps(event))

    async def recv_bytes(self):
        return await self.socket.recv(decode=False)


async def answered_to(client, event_id):
    """Take events up to the error about one of the client's own."""
    while True:
        event = await client.take()
        if event["type"] == "error" and event["error"]["event_id"] == event_id:
            return


@contextlib.asynccontextmanager
async def talking(running, key="not needed here"):
    """Connect as a stock client does; the session has begun."""
    async with (
        running.client(key) as client,
        client.realtime.connect(model="llama-omni") as connection,
    ):
        one = Client(connection)
        await one.until("session.created")
        yield one


def sound_of(events):
    """All sound of some events, 24 kHz."""
    deltas = [e["delta"] for e in events if e["type"] == "response.output_audio.delta"]
    data = b"".join(base64.b64decode(delta) for delta in deltas)
    return np.frombuffer(data, "<i2").astype(np.float32) / 32_767


def run(coroutine, seconds=60.0):
    async def main():
        async with asyncio.timeout(seconds):
            return await coroutine

    return asyncio.run(main())


async def settled(condition, seconds=10.0):
    """Wait until something is so."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)
