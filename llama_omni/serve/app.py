"""The web application: the Realtime API at `/v1`, the page at `/`, health and numbers.

`create_app(engine, settings)` takes any `AsyncAssistant`. It neither starts nor ends the engine.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.types import Receive, Scope, Send

from llama_omni.errors import EngineError
from llama_omni.interfaces import AsyncAssistant, Recognizer
from llama_omni.serve.access import Access, Refusal, error_response
from llama_omni.serve.connection import Connection, Surroundings
from llama_omni.serve.hearing import Ears
from llama_omni.serve.keys import PROTOCOL
from llama_omni.serve.metrics import ServeMetrics
from llama_omni.serve.origins import neighbourhood
from llama_omni.serve.page import Page
from llama_omni.serve.recording import RecordedSocket, Recorder
from llama_omni.serve.secret_requests import SECRET_SCHEMA, make_secret
from llama_omni.serve.serve_settings import ServeSettings
from llama_omni.serve.session import Session
from llama_omni.serve.vad import SileroVad, Vad

logger = logging.getLogger(__name__)

_POLL_S = 0.05  # while draining
_FULL = 0.9  # share of the caches from which no reply is made that may be dropped


class RealtimeServer:
    """All sessions of one server.

    Args:
        engine: answers.
        settings: how much, and to whom.
        make_vad: makes what tells speech, for each session.
        recognizer: writes down what is said; None: nobody does.
    """

    def __init__(
        self,
        engine: AsyncAssistant,
        settings: ServeSettings,
        *,
        make_vad: Callable[[], Vad] = SileroVad,
        recognizer: Recognizer | None = None,
    ) -> None:
        self.engine, self.settings = engine, settings
        self.metrics = ServeMetrics(engine)
        self.access = Access(settings)
        self.draining = False
        self._began = int(time.time())
        self._connections: dict[Connection, str] = {}  # with whose address they count for
        self._threads = ThreadPoolExecutor(settings.hearing_threads, "hearing")
        self._recorder: Recorder | None = None
        if settings.record is not None:
            count = self.metrics.recordings.labels
            self._recorder = Recorder(settings.record, lambda outcome: count(outcome).inc())
        self._around = Surroundings(
            engine=engine,
            metrics=self.metrics,
            recognizer=recognizer,
            writers=ThreadPoolExecutor(1, "writing"),
            make_ears=lambda: Ears(make_vad, self._threads),
            may_speculate=self._has_time,
            max_unsent_bytes=settings.max_unsent_bytes,
            send_timeout_s=settings.send_timeout_s,
        )

    @property
    def ready(self) -> bool:
        """Whether a session could begin and be answered now."""
        return self.engine.ready and not self.draining

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Do what the server does beside its sessions, and end it."""
        lag = asyncio.create_task(self.metrics.watch_lag())
        try:
            yield
        finally:
            lag.cancel()
            if self._recorder is not None:
                await asyncio.to_thread(self._recorder.close)

    async def serve(self, websocket: WebSocket) -> None:
        """Serve one WebSocket to its end."""
        address = neighbourhood(websocket.client.host if websocket.client else None)
        try:
            patch = self.access.check(websocket, secrets=True)
            self._check_room(address)
        except Refusal as refusal:
            self.metrics.refused.labels(refusal.code).inc()
            logger.info("connection refused code=%s", refusal.code)
            await websocket.send_denial_response(refusal.response())
            return
        session = self.new_session(patch)
        self.metrics.sessions_total.inc()
        began, code = time.monotonic(), 1011
        connection: Connection | None = None
        recording = self._recorder.begin(session.id) if self._recorder else None
        try:
            offered = websocket.scope.get("subprotocols", ())
            if recording is not None:
                websocket = RecordedSocket(
                    websocket, recording, lambda: session.config.input_format.name
                )
            connection = Connection(websocket, session, self._around)
            self._connections[connection] = address
            self.metrics.sessions.set(len(self._connections))
            await websocket.accept(PROTOCOL if PROTOCOL in offered else None)
            logger.info("session begins session=%s", session.id)
            code = await connection.run()
        finally:
            if connection is not None:
                self._connections.pop(connection, None)
            self.metrics.sessions.set(len(self._connections))
            if recording is not None:
                recording.end(code)
            self.metrics.closed.labels(str(code)).inc()
            lasted = time.monotonic() - began
            logger.info("session ends session=%s code=%d seconds=%.1f", session.id, code, lasted)

    def new_session(self, patch: dict[str, Any] | None = None) -> Session:
        """Make a session, with what a client secret says of it."""
        facts = self.settings.model
        with suppress(EngineError):
            facts = replace(facts, sample_rate=self.engine.sample_rate)
        session = Session(facts, self.settings.limits)
        if patch:
            session.client(
                {"type": "session.update", "session": {**patch, "type": "realtime"}}
            )  # what it would tell, `session.created` tells
        return session

    def models(self) -> dict[str, Any]:
        """Return the list of the one model, as the API's clients read it."""
        return {"object": "list", "data": [self.model()]}

    def model(self) -> dict[str, Any]:
        """Return the one model."""
        name = self.settings.model.name
        return {"id": name, "object": "model", "created": self._began, "owned_by": "llama-omni"}

    async def drain(self, hurry: Callable[[], bool] = lambda: False) -> None:
        """Let what is being said end, and begin nothing; at most `drain_s`.

        Args:
            hurry: asked again and again; True ends the wait.
        """
        self.draining = True
        logger.info("draining sessions=%d", len(self._connections))
        deadline = time.monotonic() + self.settings.drain_s
        await asyncio.gather(*(one.drain() for one in [*self._connections]))
        while self._connections and time.monotonic() < deadline and not hurry():
            await asyncio.sleep(_POLL_S)
        logger.info("drained left=%d", len(self._connections))

    def _check_room(self, address: str) -> None:
        if self.draining:
            raise Refusal(503, "server_shutting_down", "the server is shutting down")
        if not self.engine.ready:
            raise Refusal(503, "not_ready", "the engine is not ready; try again soon")
        most = self.settings.max_sessions
        if len(self._connections) >= most:
            raise Refusal(503, "too_many_sessions", f"at most {most} sessions may be open")
        each = self.settings.max_per_address
        if each is not None and list(self._connections.values()).count(address) >= each:
            raise Refusal(
                429, "too_many_from_address", f"at most {each} sessions of one address may be open"
            )

    def _has_time(self) -> bool:
        """Tell whether the engine is far from its limits."""
        numbers = getattr(self.engine, "numbers", None)
        if numbers is None:
            return True
        limit = getattr(numbers, "cache_limit", 0)
        full = limit and getattr(numbers, "cache_bytes", 0) > _FULL * limit
        return not getattr(numbers, "waiting", 0) and not full


def create_app(
    engine: AsyncAssistant,
    settings: ServeSettings | None = None,
    *,
    make_vad: Callable[[], Vad] = SileroVad,
    recognizer: Recognizer | None = None,
) -> FastAPI:
    """Make the application; its `state.server` is the `RealtimeServer`.

    Args:
        engine: answers; may not be ready yet.
        settings: None is the defaults: callers on this machine only.
        make_vad: makes what tells speech, for each session.
        recognizer: writes down what is said, where a client asks for it.
    """
    settings = settings or ServeSettings()
    if settings.model.recognizer != (recognizer is not None):
        facts = replace(settings.model, recognizer=recognizer is not None)
        settings = replace(settings, model=facts)
    server = RealtimeServer(engine, settings, make_vad=make_vad, recognizer=recognizer)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with server.running():
            yield

    app = FastAPI(
        title="llama-omni",
        version="1",
        description="OpenAI's Realtime API in front of a speech model.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.server = server
    _add_health(app, server)
    _add_api(app, server)
    _add_page(app)
    return app


def _add_page(app: FastAPI) -> None:
    """Serve the page where nothing else is, so that a wrong method of the API stays one."""
    page, missing = Page(), app.router.default

    async def otherwise(scope: Scope, receive: Receive, send: Send) -> None:
        await (page if scope["type"] == "http" else missing)(scope, receive, send)

    app.router.default = otherwise


def _add_health(app: FastAPI, server: RealtimeServer) -> None:
    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether the server runs."""
        return {"status": "ok"}

    @app.get("/readyz", responses={503: {"description": "not now"}})
    async def readyz() -> JSONResponse:
        """Whether a session could begin now."""
        state = "draining" if server.draining else "ok" if server.ready else "engine not ready"
        return JSONResponse({"status": state}, 200 if server.ready else 503)

    @app.get("/metrics", responses=_REFUSALS, response_class=PlainTextResponse)
    async def metrics(request: Request) -> Response:
        """Numbers for Prometheus."""
        server.access.check(request)
        return Response(server.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _add_api(app: FastAPI, server: RealtimeServer) -> None:
    @app.exception_handler(Refusal)
    async def refuse(request: Request, refusal: Refusal) -> JSONResponse:  # noqa: ARG001
        return refusal.response()

    @app.get("/v1/models", responses=_REFUSALS)
    async def models(request: Request) -> dict[str, Any]:
        """The one model."""
        server.access.check(request)
        return server.models()

    @app.get("/v1/models/{name:path}", responses={**_REFUSALS, 404: {"description": "no such"}})
    async def model(name: str, request: Request) -> Response:
        """The one model, by its name."""
        server.access.check(request)
        if name != server.settings.model.name:
            return error_response(404, "model_not_found", "there is no such model here")
        return JSONResponse(server.model())

    @app.post(
        "/v1/realtime/client_secrets",
        responses={**_REFUSALS, 400: _UNUSABLE, 413: _UNUSABLE},
        openapi_extra={"requestBody": SECRET_SCHEMA},
    )
    async def client_secrets(request: Request) -> JSONResponse:
        """A short-lived key, for a page that must not hold the real one."""
        server.access.check(request)
        return await make_secret(request, server.access.secrets, server.new_session)

    @app.websocket("/v1/realtime")
    async def realtime(websocket: WebSocket) -> None:
        await server.serve(websocket)


_UNUSABLE = {"description": "a body that cannot be used"}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    401: {"description": "no valid key"},
    403: {"description": "not from there"},
}
