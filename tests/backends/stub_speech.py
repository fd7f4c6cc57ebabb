"""A local server that speaks OpenAI's `/v1/audio/speech`, and misbehaves on request."""

import asyncio
import io
import socket
import threading
import time

import numpy as np
import soundfile
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

RATE = 24_000


def tone(text: str, voice: str, speed: float) -> np.ndarray:
    """A sound whose length tells the text and the speed, and whose pitch tells the voice."""
    length = round(RATE * 0.05 * len(text) / speed)
    hertz = 200 + sum(voice.encode()) % 400
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(length) / RATE)).astype(np.float32)


class HalfReply(Response):
    """Promises more than it sends, and then drops the connection."""

    async def __call__(self, scope, receive, send) -> None:
        headers = [(b"content-type", b"audio/wav"), (b"content-length", b"100000")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"RIFF", "more_body": True})
        raise ConnectionError("dropped on purpose")


class StubSpeech:
    """The server and what it saw.

    Args:
        plan: behaviours, one per call in order of arrival; the last one stays.
        voices: the body of its list of voices; None has no such address.
    """

    def __init__(self, *plan: str, voices: object = None) -> None:
        self.plan = plan or ("normal",)
        self.voices = voices
        self.bodies: list[dict] = []
        self.keys: list[str] = []
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.base_url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"
        app = FastAPI()
        app.post("/v1/audio/speech")(self._speak)
        app.get("/v1/audio/voices")(self._list)
        config = uvicorn.Config(app, log_config=None, log_level="critical", lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True
        )

    def __enter__(self) -> "StubSpeech":
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(timeout=10)
        self._socket.close()

    async def _list(self) -> Response:
        if self.voices is None:
            return JSONResponse({"detail": "Not Found"}, status_code=404)
        return JSONResponse(self.voices)

    async def _speak(self, request: Request) -> Response:
        body = await request.json()
        behaviour = self.plan[min(len(self.bodies), len(self.plan) - 1)]
        self.bodies.append(body)
        self.keys.append(request.headers.get("authorization", ""))
        sound = tone(body["input"], body["voice"], body.get("speed", 1.0))
        match behaviour:
            case "normal" if body["response_format"] == "pcm":
                return Response((sound * 32_767).astype("<i2").tobytes(), media_type="audio/pcm")
            case "normal" | "endless":
                file = io.BytesIO()
                soundfile.write(file, sound, RATE, format="WAV", subtype="PCM_16")
                wav = bytearray(file.getvalue())
                if behaviour == "endless":  # the sizes of a server that streams are not known
                    wav[4:8] = wav[40:44] = b"\xff\xff\xff\xff"
                return Response(bytes(wav), media_type="audio/wav")
            case "slow":
                await asyncio.sleep(5)
                return Response(b"")
            case "limited":
                headers = {"retry-after-ms": "50"}
                return JSONResponse({"error": {"message": "slow down"}}, 429, headers)
            case "broken":
                return JSONResponse({"error": {"message": "out of memory"}}, 500)
            case "refused":
                return JSONResponse({"error": {"message": "voice not allowed"}}, 400)
            case "locked":
                return JSONResponse({"error": {"message": f"wrong key {self.keys[-1]}"}}, 401)
            case "absent":
                return JSONResponse({"error": {"message": "no such model"}}, 404)
            case "dropping":
                return HalfReply()
            case "page":
                return PlainTextResponse("<html>It works!</html>")
            case "empty":
                return Response(b"", media_type="audio/wav")
            case "odd":
                return Response(b"123", media_type="audio/pcm")
            case "silent":
                return Response(bytes(48_000), media_type="audio/pcm")
        raise AssertionError(f"unknown behaviour {behaviour}")
