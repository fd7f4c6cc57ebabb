"""The socket of one Realtime session: JSON both ways, and one error for all that goes wrong."""

import json
from typing import Any

from llama_omni.backends.realtime_names import reason_of
from llama_omni.backends.realtime_options import RealtimeOptions
from llama_omni.errors import EngineError, MissingExtraError

_CONNECT_S = 20.0
_CLOSE_S = 2.0


class RealtimeSocket:
    """A connection to a server.

    Args:
        options: which server.

    Raises:
        EngineError: it is not there, or refuses.
        MissingExtraError: websockets is not installed.
    """

    def __init__(self, options: RealtimeOptions) -> None:
        try:
            from websockets import exceptions
            from websockets.sync.client import connect
        except ImportError as error:
            raise MissingExtraError("websockets", "evaluate", "a Realtime server") from error
        self._url, self._timeout_s = options.url, options.timeout_s
        self._errors = (exceptions.WebSocketException, OSError)
        try:
            self._socket = connect(
                options.address,
                additional_headers=options.headers,
                open_timeout=min(_CONNECT_S, options.timeout_s),
                close_timeout=_CLOSE_S,
                max_size=None,
            )
        except self._errors as error:
            raise EngineError(
                f"{self._url} must be a Realtime server that answers, got: {_reason(error)}"
            ) from error

    def send(self, kind: str, **fields: Any) -> None:
        """Send an event.

        Raises:
            EngineError: the connection is gone.
        """
        try:
            self._socket.send(json.dumps({"type": kind, **fields}))
        except self._errors as error:
            raise EngineError(f"{self._url} ended the connection: {_reason(error)}") from error

    def receive(self) -> dict[str, Any]:
        """Return the next event.

        Raises:
            EngineError: the connection is gone, there was no event for too long, or it is none.
        """
        try:
            data = self._socket.recv(timeout=self._timeout_s)
        except TimeoutError as error:
            raise EngineError(
                f"{self._url} must send an event within {self._timeout_s:g} s, got none"
            ) from error
        except self._errors as error:
            raise EngineError(f"{self._url} ended the connection: {_reason(error)}") from error
        try:
            event = json.loads(data)
        except ValueError as error:
            raise EngineError(f"{self._url} must send JSON, got {data[:40]!r}") from error
        if not isinstance(event, dict):
            raise EngineError(f"{self._url} must send JSON objects, got {type(event).__name__}")
        return event

    def until(self, kind: str) -> dict[str, Any]:
        """Return the next event of a type, leaving out others.

        Raises:
            EngineError: an error comes first, or nothing.
        """
        while True:
            event = self.receive()
            if event.get("type") == kind:
                return event
            if event.get("type") == "error":
                raise EngineError(f"{self._url} refused: {reason_of(event.get('error'))}")

    def close(self) -> None:
        """End the connection."""
        self._socket.close()


def _reason(error: Exception) -> str:
    response = getattr(error, "response", None)  # of a refused handshake
    body = getattr(response, "body", None)
    words = " ".join(str(error).split()) or type(error).__name__
    if body:
        try:
            words += f": {reason_of(json.loads(body)['error'])}"
        except (ValueError, KeyError, TypeError):
            words += f": {body[:200].decode(errors='replace')}"
    return words
