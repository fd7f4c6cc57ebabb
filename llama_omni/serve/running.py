"""Run the application until it is told to end: uvicorn, with a drain before its shutdown."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from llama_omni.errors import ConfigError

logger = logging.getLogger(__name__)

_SLACK = 2**20  # so that an event just above its limit is told, and not cut off


def _is_no_refusal(record: logging.LogRecord) -> bool:
    """Leave out what uvicorn says, as an error, of each connection that is refused in words."""
    return "returned without completing handshake" not in record.getMessage()


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """Where the server listens."""

    host: str = "127.0.0.1"
    port: int = 8000  # 0 takes a free one
    certificate: Path | None = None  # PEM; with `certificate_key`, for TLS
    certificate_key: Path | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise ConfigError(f"port must be 0 to 65535, got {self.port}")
        if (self.certificate is None) != (self.certificate_key is None):
            raise ConfigError("TLS needs both a certificate and its key, got one of them")
        for file in (self.certificate, self.certificate_key):
            if file is not None and not file.is_file():
                raise ConfigError(f"{file} must be a PEM file, found none")

    def bind(self) -> socket.socket:
        """Return a socket there.

        Raises:
            ConfigError: the address is taken, or not this machine's.
        """
        try:
            family = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)[0][0]
            bound = socket.socket(family, socket.SOCK_STREAM)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((self.host, self.port))
        except OSError as error:
            raise ConfigError(
                f"host and port must be free and this machine's, got {self.host}:{self.port}: "
                f"{error.strerror or error}"
            ) from error
        return bound


class DrainingServer(uvicorn.Server):
    """Lets what is being said end before it closes connections. A second signal hurries it."""

    def __init__(self, app: FastAPI, address: Address) -> None:
        self._realtime = app.state.server
        settings = self._realtime.settings
        logging.getLogger("uvicorn.error").addFilter(_is_no_refusal)
        super().__init__(
            uvicorn.Config(
                app,
                ws_max_size=settings.limits.max_event_bytes + _SLACK,
                ws_ping_interval=settings.ping_s,
                ws_ping_timeout=settings.ping_s,
                ws_per_message_deflate=False,  # sound hardly shrinks, and it takes the loop's time
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=5,
                ssl_certfile=address.certificate,
                ssl_keyfile=address.certificate_key,
            )
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Take SIGTERM or Ctrl-C: the first drains, the second ends the wait.

        uvicorn's own raises the signal again in the end. A server that drained has done what it was
        told to: it ends with code 0, and closes the engine before.
        """
        self.force_exit = self.should_exit
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain, then close."""
        await self._realtime.drain(lambda: self.force_exit)
        await super().shutdown(sockets)
        if self.force_exit:  # uvicorn would leave it to be cancelled, with a trace
            await self.lifespan.shutdown()


async def run(
    app: FastAPI,
    address: Address,
    *,
    load: Callable[[], Awaitable[Any]] | None = None,
    started: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve until SIGTERM or Ctrl-C; while the engine loads too, as not ready.

    Args:
        app: from `create_app`.
        address: where.
        load: makes the engine ready.
        started: told the page's address, once there is somebody to answer.

    Raises:
        LlamaOmniError: `load` did; or the address cannot be had.
    """
    bound = address.bind()
    host, port = bound.getsockname()[:2]
    scheme = "http" if address.certificate is None else "https"
    url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/"
    server = DrainingServer(app, address)

    async def prepare() -> None:
        try:
            if load is not None:
                await load()
            started(url)
        except BaseException:
            server.should_exit = True
            raise

    task = asyncio.create_task(prepare())
    try:
        with contextlib.closing(bound):
            await server.serve(sockets=[bound])
    finally:
        if not task.done():
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
