"""`POST /v1/realtime/client_secrets`: what is asked, and what is given."""

from collections.abc import Callable
from typing import Any

import pydantic_core
from starlette.requests import Request
from starlette.responses import JSONResponse

from llama_omni.errors import CapacityError
from llama_omni.serve.access import Refusal
from llama_omni.serve.actions import Send
from llama_omni.serve.errors import shorten
from llama_omni.serve.keys import ClientSecrets
from llama_omni.serve.session import Session

_SHORTEST_S, _DEFAULT_S, _LONGEST_S = 10, 600, 7_200  # as the API says
_MAX_BYTES = 256 * 1024

SECRET_SCHEMA: dict[str, Any] = {
    "required": False,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "expires_after": {
                        "type": "object",
                        "additionalProperties": False,
                        "properties": {
                            "anchor": {"type": "string", "enum": ["created_at"]},
                            "seconds": {
                                "type": "integer",
                                "minimum": _SHORTEST_S,
                                "maximum": _LONGEST_S,
                            },
                        },
                    },
                    "session": {"type": "object"},
                },
            }
        }
    },
}


async def make_secret(
    request: Request, secrets: ClientSecrets, new_session: Callable[[], Session]
) -> JSONResponse:
    """Answer one request; the session it configures is tried at once.

    Raises:
        Refusal: the body cannot be used, or too many secrets are valid.
    """
    body = await _body(request)
    seconds = _seconds(body.get("expires_after", {}))
    patch = body.get("session", {})
    if not isinstance(patch, dict):
        raise _bad("session", "an object", patch)
    unknown = [name for name in body if name not in ("expires_after", "session")]
    if unknown:
        raise Refusal(400, "unknown_parameter", f"there is no field {shorten(unknown[0])}")
    trial = {**patch, "type": patch.get("type", "realtime")}
    actions = new_session().client({"type": "session.update", "session": trial})
    events = [action.event for action in actions if isinstance(action, Send)]
    if events[-1]["type"] == "error":
        error = events[-1]["error"]
        raise Refusal(400, error["code"], error["message"])
    try:
        secret = secrets.create(trial, seconds=seconds)
    except CapacityError as error:
        raise Refusal(503, "too_many_secrets", str(error)) from error
    return JSONResponse(
        {
            "value": secret.value,
            "expires_at": secret.expires_at,
            "session": events[-1]["session"],
        },
        headers={"cache-control": "no-store"},
    )


async def _body(request: Request) -> dict[str, Any]:
    data = b""
    async for piece in request.stream():
        data += piece
        if len(data) > _MAX_BYTES:
            raise Refusal(413, "too_large", f"a body must be at most {_MAX_BYTES} bytes")
    try:
        value = pydantic_core.from_json(data, allow_inf_nan=False) if data.strip() else {}
    except ValueError as error:
        raise Refusal(400, "invalid_json", f"the body must be JSON: {error}") from error
    if not isinstance(value, dict):
        raise _bad("the body", "an object", value)
    return value


def _seconds(after: Any) -> int:
    if not isinstance(after, dict) or set(after) - {"anchor", "seconds"}:
        raise _bad("expires_after", "an object with anchor and seconds", after)
    if after.get("anchor", "created_at") != "created_at":
        raise _bad("expires_after.anchor", "'created_at'", after["anchor"])
    seconds = after.get("seconds", _DEFAULT_S)
    if type(seconds) is not int or not _SHORTEST_S <= seconds <= _LONGEST_S:
        raise _bad("expires_after.seconds", f"{_SHORTEST_S} to {_LONGEST_S}", seconds)
    return seconds


def _bad(place: str, rule: str, value: Any) -> Refusal:
    return Refusal(400, "invalid_value", f"{place} must be {rule}, got {shorten(value)}")
