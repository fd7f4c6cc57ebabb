"""Is this caller let in? Asked of every request and every WebSocket."""

from typing import Any

from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse

from llama_omni.serve.keys import ClientSecrets, Keys, offered_key
from llama_omni.serve.origins import is_loopback, origin_allowed
from llama_omni.serve.serve_settings import ServeSettings


class Refusal(Exception):
    """A caller is not let in.

    Attributes:
        status: of HTTP.
        code: a word for programs.
        message: a sentence for people.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message

    def response(self) -> JSONResponse:
        """Return it as the API's clients read it."""
        headers = {"www-authenticate": "Bearer"} if self.status == 401 else {}
        if self.status in (429, 503):
            headers["retry-after"] = "2"
        return error_response(self.status, self.code, self.message, headers)


def error_response(
    status: int, code: str, message: str, headers: dict[str, str] | None = None
) -> JSONResponse:
    """Return an error in the shape of OpenAI's."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    error = {"message": message, "type": kind, "code": code, "param": None}
    return JSONResponse({"error": error}, status, headers)


class Access:
    """Knows the keys, the secrets and the origins."""

    def __init__(self, settings: ServeSettings) -> None:
        self.keys = Keys(settings.keys)
        self.secrets = ClientSecrets(max_secrets=settings.max_secrets)
        self._origins = settings.origins

    def check(self, caller: HTTPConnection, *, secrets: bool = False) -> dict[str, Any]:
        """Let a caller in; return the session fields that its client secret brings.

        Args:
            caller: a request or a WebSocket.
            secrets: whether a client secret will do.

        Raises:
            Refusal: it is not let in.
        """
        headers = caller.headers
        if not origin_allowed(headers.get("origin"), headers.get("host"), self._origins):
            raise Refusal(
                403, "origin_not_allowed", "pages of this origin are not let in (--origin)"
            )
        protocols = caller.scope.get("subprotocols", ())
        key = offered_key(headers.get("authorization"), protocols)
        if secrets and (session := self.secrets.session_of(key)) is not None:
            return session
        if self.keys:
            if not self.keys.knows(key):
                raise Refusal(401, "invalid_api_key", "a valid API key must be given")
        elif not self._is_local(caller):
            raise Refusal(
                403, "key_required", "without keys this server only lets in its own machine"
            )
        return {}

    def _is_local(self, caller: HTTPConnection) -> bool:
        client = caller.client.host if caller.client is not None else None
        return is_loopback(client) and is_loopback(caller.headers.get("host"))
