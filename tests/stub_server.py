"""A local chat server that speaks OpenAI's protocol, and misbehaves on request.

In a thread: `with StubServer("normal") as server: ... server.base_url, server.calls`. As a process
of its own, which can be killed: `python -m tests.stub_server normal`, which prints its base URL.
"""

import asyncio
import hashlib
import json
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.requests import ClientDisconnect

WORDS = "red green blue white black grey brown pink gold plum rose teal lime sand coal snow".split()
DECODER = json.JSONDecoder()


def words_of(text: str, count: int = 4) -> str:
    """A few words that depend on a text only."""
    digest = hashlib.sha256(text.encode()).digest()
    return " ".join(WORDS[byte % 16] for byte in digest[:count])


def schema_of(body: dict) -> dict | None:
    """The JSON schema that a request states, in `response_format` or in words."""
    if "response_format" in body:
        return body["response_format"]["json_schema"]["schema"]
    content = body["messages"][0]["content"]
    _, found, rest = content.partition("JSON schema:\n")
    return DECODER.raw_decode(rest)[0] if found else None


def default_reply(body: dict) -> str:
    """What the stub writes: words for each field of the schema, or a sentence."""
    asked = body["messages"][-1]["content"]
    schema = schema_of(body)
    if schema is None:
        return f"You said {words_of(asked)}."
    return json.dumps({name: f"So, {words_of(asked + name)}?" for name in schema["properties"]})


def completion(body: dict, text: str | None, *, refusal: str | None = None, finish: str = "stop"):
    given = sum(len(message["content"].split()) for message in body["messages"])
    written = len((text or "").split())
    return {
        "id": "chatcmpl-stub",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [
            {
                "index": 0,
                "finish_reason": finish,
                "message": {"role": "assistant", "content": text, "refusal": refusal},
            }
        ],
        "usage": {
            "prompt_tokens": given,
            "completion_tokens": written,
            "total_tokens": given + written,
        },
    }


def fault(status: int, message: str, code: str | None = None, **headers: str) -> JSONResponse:
    error = {"message": message, "type": "stub", "code": code, "param": None}
    return JSONResponse({"error": error}, status_code=status, headers=headers)


class HalfReply(Response):
    """Promises more than it sends, and then drops the connection."""

    async def __call__(self, scope, receive, send) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", b"1000")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"choices"', "more_body": True})
        raise ConnectionError("dropped on purpose")


class StubServer:
    """The server and what it saw.

    Args:
        plan: behaviours, one per call in order of arrival; the last one stays.
        reply: from the request's body to the text of a normal reply.
        delay_s: how long a normal reply takes.
        retry_after: of a rate limit.
        port: 0 takes a free one.
    """

    def __init__(
        self,
        *plan: str,
        reply: Callable[[dict], str] = default_reply,
        delay_s: float = 0.0,
        retry_after: str | None = "0.3",
        port: int = 0,
    ) -> None:
        self.plan = plan or ("normal",)
        self.reply, self.delay_s, self.retry_after = reply, delay_s, retry_after
        self.bodies: list[dict] = []
        self.times: list[float] = []
        self.keys: list[str] = []
        self.seen: Counter[str] = Counter()
        self.busy = self.most_busy = 0
        self._socket = socket.create_server(("127.0.0.1", port), backlog=256)
        self.port = self._socket.getsockname()[1]
        app = FastAPI()
        app.post("/v1/chat/completions")(self._answer)
        config = uvicorn.Config(
            app, log_config=None, log_level="critical", lifespan="off", timeout_keep_alive=30
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True
        )

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def calls(self) -> int:
        return len(self.bodies)

    def __enter__(self) -> "StubServer":
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(timeout=10)
        self._socket.close()

    async def _answer(self, request: Request) -> Response:
        try:
            body = await request.json()
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        behaviour = self.plan[min(self.calls, len(self.plan) - 1)]
        self.bodies.append(body)
        self.times.append(time.monotonic())
        self.keys.append(request.headers.get("authorization", ""))
        self.seen[behaviour] += 1
        self.busy += 1
        self.most_busy = max(self.most_busy, self.busy)
        try:
            return await self._behave(behaviour, body)
        finally:
            self.busy -= 1

    async def _behave(self, behaviour: str, body: dict) -> Response:
        good = self.reply(body)
        match behaviour:
            case "normal":
                await asyncio.sleep(self.delay_s)
                return JSONResponse(completion(body, good))
            case "slow":
                await asyncio.sleep(0.5)
                return JSONResponse(completion(body, good))
            case "limited":
                headers = {"retry-after": self.retry_after} if self.retry_after else {}
                return fault(429, "slow down", "rate_limit_exceeded", **headers)
            case "broke":
                return fault(429, "you have no money left", "insufficient_quota")
            case "malformed":
                return JSONResponse(completion(body, '{"question": "never closed'))
            case "fenced":
                return JSONResponse(completion(body, f"Sure!\n```json\n{good}\n```\nBye."))
            case "chatty":
                return JSONResponse(completion(body, "I would rather talk about the weather."))
            case "misfit":
                return JSONResponse(completion(body, '{"reply": 3}'))
            case "refusing":
                return JSONResponse(completion(body, None, refusal="I cannot help with that."))
            case "filtered":
                return JSONResponse(completion(body, "", finish="content_filter"))
            case "empty":
                return JSONResponse(completion(body, "  "))
            case "cut":
                return JSONResponse(completion(body, good[:5], finish="length"))
            case "uncounted":
                return JSONResponse({**completion(body, good), "usage": None})
            case "worded":
                usage = {"prompt_tokens": "10", "completion_tokens": "many"}
                return JSONResponse({**completion(body, good), "usage": usage})
            case "listed":
                return JSONResponse({**completion(body, good), "usage": [1, 2]})
            case "dropping":
                return HalfReply()
            case "page":
                return PlainTextResponse("<html>It works!</html>")
            case "broken":
                return fault(500, "out of memory")
            case "busy":
                return fault(503, "loading the model", **{"retry-after": self.retry_after or "0"})
            case "no-schema":
                if "response_format" in body:
                    return fault(400, "response_format is not supported")
                return JSONResponse(completion(body, good))
            case "too-long":
                return fault(400, "the prompt is longer than the context", "context_length")
            case "locked":
                return fault(401, "wrong key: " + self.keys[-1])
            case "absent":
                return fault(404, "no such model")
        raise AssertionError(f"unknown behaviour {behaviour}")


def main(plan: Iterable[str]) -> None:
    with StubServer(*plan, delay_s=0.05) as server:
        sys.stdout.write(f"{server.base_url}\n")
        sys.stdout.flush()
        threading.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1:])
