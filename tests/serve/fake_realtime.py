"""A scripted Realtime server for the page's tests: loudness decides turns, a tone is the answer.

Run it to look at the page: `python -m tests.serve.fake_realtime 8123`, or by its path.
"""

import asyncio
import base64
import itertools
import json
import sys
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI, Request, Response, WebSocket, WebSocketDisconnect

from llama_omni.serve.page import Page

RATE = 24_000  # Hz
QUESTION = "How do I boil an egg?"
ANSWER = "Put it into boiling water and wait for eight minutes. Then cool it, and enjoy it warm."
_LOUD = 0.01  # root mean square of speech
_SILENT_PIECES = 5  # of 100 ms: a turn is over


def answer_sound(seconds: float = 2.5) -> np.ndarray:
    """Return the answer: a tone that rises from 400 to 900 Hz, so that its place can be told."""
    time = np.arange(int(seconds * RATE)) / RATE
    sound = 0.4 * np.sin(2 * np.pi * (400 + 250 * time / seconds) * time)
    return (sound * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * time))).astype(np.float32)


class FakeRealtime:
    """What the page talks to. `received` holds every event of every connection."""

    def __init__(self, *, key: str = "", think_s: float = 0.3, seconds: float = 2.5) -> None:
        self.key, self.think_s, self.seconds = key, think_s, seconds
        self.received: list[dict[str, Any]] = []
        self.sockets: list[tuple[WebSocket, asyncio.AbstractEventLoop]] = []
        self.heard = bytearray()
        self.app = FastAPI()
        self.app.websocket("/v1/realtime")(self.talk)
        self.app.get("/v1/models")(self.models)
        self.app.mount("/", Page())

    def drop(self) -> None:
        """Cut every connection, as a server that dies does. From any thread."""
        for socket, loop in self.sockets:
            asyncio.run_coroutine_threadsafe(socket.close(1012), loop)

    async def models(self, request: Request) -> Response:
        """Tell whether the key is right, as the real server does."""
        right = not self.key or request.headers.get("authorization") == f"Bearer {self.key}"
        return Response("{}", 200 if right else 401)

    async def talk(self, socket: WebSocket) -> None:
        """Hold one conversation."""
        if self.key and f"openai-insecure-api-key.{self.key}" not in socket.scope["subprotocols"]:
            await socket.close(3000)
            return
        await socket.accept("realtime")
        here = (socket, asyncio.get_running_loop())
        self.sockets.append(here)
        conversation = _Conversation(self, socket)
        try:
            await conversation.send(
                "session.created", session={"model": "tiny", "type": "realtime"}
            )
            while True:
                event = json.loads(await socket.receive_text())
                self.received.append(event)
                await conversation.take(event)
        except WebSocketDisconnect:
            pass
        finally:
            self.sockets.remove(here)
            await conversation.cancel()


class _Conversation:
    def __init__(self, server: FakeRealtime, socket: WebSocket) -> None:
        self.server, self.socket = server, socket
        self.count = itertools.count(1)
        self.detects, self.speech, self.silent, self.pieces = True, "", 0, 0
        self.reply: asyncio.Task[None] | None = None
        self.said: dict[str, str] = {}

    async def send(self, kind: str, **fields: Any) -> None:
        event = {"type": kind, "event_id": f"event_{next(self.count)}", **fields}
        await self.socket.send_text(json.dumps(event))

    async def take(self, event: dict[str, Any]) -> None:
        kind = event["type"]
        if kind == "session.update":
            self.detects = event["session"]["audio"]["input"]["turn_detection"] is not None
            await self.send("session.updated", session=event["session"])
        elif kind == "input_audio_buffer.append":
            await self.hear(base64.b64decode(event["audio"]))
        elif kind == "input_audio_buffer.commit":
            await self.commit(f"item_{next(self.count)}")
        elif kind == "conversation.item.create":
            item = event["item"]
            await self.send("conversation.item.added", item=item, previous_item_id=None)
            if item["content"][0]["type"] == "input_audio":
                self.server.heard += base64.b64decode(item["content"][0]["audio"])
                await self.transcribe(item["id"])
        elif kind == "response.create":
            self.reply = asyncio.create_task(self.answer())
        elif kind == "response.cancel":
            await self.cancel()
        elif kind == "conversation.item.truncate":
            name, share = event["item_id"], event["audio_end_ms"] / 1000 / self.server.seconds
            await self.cancel()
            self.said[name] = self.said[name][: int(share * len(ANSWER))]
            await self.send("conversation.item.truncated", **_but_type(event))
        elif kind == "conversation.item.retrieve":
            await self.send("conversation.item.retrieved", item=self.item(event["item_id"]))

    async def hear(self, pcm: bytes) -> None:
        self.server.heard += pcm
        self.pieces += 1
        if not self.detects:
            return
        sound = np.frombuffer(pcm, "<i2") / 32768
        loud = float(np.sqrt(np.mean(sound**2))) > _LOUD
        self.silent = 0 if loud else self.silent + 1
        if loud and not self.speech:
            self.speech = f"item_{next(self.count)}"
            await self.send(
                "input_audio_buffer.speech_started",
                item_id=self.speech,
                audio_start_ms=100 * self.pieces,
            )
            await self.cancel()
        elif self.speech and self.silent >= _SILENT_PIECES:
            name, self.speech = self.speech, ""
            await self.send(
                "input_audio_buffer.speech_stopped", item_id=name, audio_end_ms=100 * self.pieces
            )
            await self.commit(name)
            self.reply = asyncio.create_task(self.answer())

    async def commit(self, name: str) -> None:
        await self.send("input_audio_buffer.committed", item_id=name, previous_item_id=None)
        await self.transcribe(name)

    async def transcribe(self, name: str) -> None:
        kind = "conversation.item.input_audio_transcription"
        await self.send(f"{kind}.completed", item_id=name, content_index=0, transcript=QUESTION)

    def item(self, name: str) -> dict[str, Any]:
        part = {"type": "output_audio", "transcript": self.said.get(name, "")}
        return {"id": name, "type": "message", "role": "assistant", "content": [part]}

    async def answer(self) -> None:
        response, name = f"resp_{next(self.count)}", f"item_{next(self.count)}"
        where = {"response_id": response, "item_id": name, "output_index": 0, "content_index": 0}
        self.said[name] = ""
        status = "completed"
        await self.send("response.created", response={"id": response, "status": "in_progress"})
        try:
            await asyncio.sleep(self.server.think_s)
            await self.send(
                "response.output_item.added", response_id=response, item=self.item(name)
            )
            words = ANSWER.split(" ")
            pcm = (answer_sound(self.server.seconds) * 32767).astype("<i2").tobytes()
            piece = -(-len(pcm) // len(words) // 2) * 2
            for place, word in enumerate(words):
                text = word if place == 0 else f" {word}"
                self.said[name] += text
                await self.send("response.output_audio_transcript.delta", **where, delta=text)
                sound = base64.b64encode(pcm[place * piece : (place + 1) * piece]).decode()
                await self.send("response.output_audio.delta", **where, delta=sound)
                await asyncio.sleep(0.8 * piece / 2 / RATE)  # faster than it plays
        except asyncio.CancelledError:
            status = "cancelled"
        await self.send("response.output_audio.done", **where)
        done = {"id": response, "status": status, "output": [self.item(name)]}
        await self.send("response.done", response=done)

    async def cancel(self) -> None:
        if self.reply is not None and not self.reply.done():
            self.reply.cancel()
            await asyncio.gather(self.reply, return_exceptions=True)


def _but_type(event: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in event.items() if name not in ("type", "event_id")}


if __name__ == "__main__":
    uvicorn.run(FakeRealtime().app, port=int(sys.argv[1]) if len(sys.argv) > 1 else 8123)
