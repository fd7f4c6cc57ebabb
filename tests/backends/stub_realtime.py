"""A scripted Realtime server in a thread: the beta's names or today's, and faults on demand."""

import base64
import contextlib
import json
import threading

import numpy as np
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import serve

TONE = (0.25 * np.sin(np.arange(4_800) / 9)).astype(np.float32)  # 0.2 s at 24 kHz
PCM = np.rint(TONE * 32_768).astype("<i2").tobytes()


class StubRealtime:
    """Answers "One two three." in three pieces of text, with sound after the second.

    `fault` is one of "" (none), "refuse" (an error in place of the session's update), "fail" (a
    failed response), "drop" (closes in the middle), "silence" (sends nothing), "junk" (no JSON),
    "length" (an incomplete response), "wait" (goes on when cancelled).
    """

    def __init__(self, *, beta=True, fault="", faults=1000):
        self.beta, self.fault, self.faults = beta, fault, faults
        self.received, self.headers, self.paths = [], [], []

    def events(self, kind):
        return [event for event in self.received if event["type"] == kind]

    def sound(self):
        """All sound that was appended, as 16 bit."""
        data = b"".join(
            base64.b64decode(event["audio"]) for event in self.events("input_audio_buffer.append")
        )
        return np.frombuffer(data, "<i2")

    def handle(self, socket):
        self.headers.append(dict(socket.request.headers.raw_items()))
        self.paths.append(socket.request.path)
        session = {"modalities": ["text", "audio"]} if self.beta else {"type": "realtime"}
        with contextlib.suppress(ConnectionClosed):
            self.send(socket, "session.created", session=session)
            for data in socket:
                event = json.loads(data)
                self.received.append(event)
                if event["type"] == "session.update":
                    if self._now("refuse"):
                        error = {"message": "no such voice", "code": "invalid_voice"}
                        self.send(socket, "error", error=error)
                    else:
                        self.send(socket, "session.updated", session=event["session"])
                elif event["type"] == "response.create":
                    self.answer(socket, event["response"])
                elif event["type"] == "response.cancel":
                    self.end(socket, "cancelled")

    def answer(self, socket, wanted):
        self.send(socket, "response.created", response={"id": "resp_1"})
        if self._now("silence"):
            return
        if self._now("junk"):
            socket.send("[1")
            return
        speech = "audio" in wanted.get("modalities", wanted.get("output_modalities"))
        words, sound = self._names(speech)
        for place, text in enumerate(("One", " two", " three.")):
            self.send(socket, words, delta=text)
            if place == 1 and self._now("drop"):
                socket.close(1011)
                return
            if place == 1 and self._now("wait"):
                return
            if place == 1 and speech:
                for piece in (PCM[:1001], PCM[1001:]):  # cut within a sample
                    self.send(socket, sound, delta=base64.b64encode(piece).decode())
        if self._now("fail"):
            error = {"message": "the model is overloaded", "code": "overloaded"}
            self.end(socket, "failed", status_details={"error": error})
        elif self._now("length"):
            self.end(socket, "incomplete", status_details={"reason": "max_output_tokens"})
        else:
            self.end(socket, "completed")

    def end(self, socket, status, **more):
        self.send(socket, "response.done", response={"id": "resp_1", "status": status, **more})

    def send(self, socket, kind, **fields):
        socket.send(json.dumps({"type": kind, **fields}))

    def _names(self, speech):
        names = ("audio_transcript", "text", "audio")
        if not self.beta:
            names = tuple(f"output_{name}" for name in names)
        return f"response.{names[0] if speech else names[1]}.delta", f"response.{names[2]}.delta"

    def _now(self, fault):
        if self.fault != fault or self.faults <= 0:
            return False
        self.faults -= 1
        return True


@contextlib.contextmanager
def running(stub):
    """Serve it; give its URL."""
    with serve(stub.handle, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}/v1"
        finally:
            server.shutdown()
            thread.join(60)
