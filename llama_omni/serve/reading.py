"""Read what a client sent, or say in plain words what is wrong with it."""

import json
from collections.abc import Callable
from functools import cache
from typing import Any, cast

import pydantic_core
from pydantic import TypeAdapter, ValidationError

from llama_omni.serve.errors import ProtocolError, shorten
from llama_omni.serve.protocol import CLIENT_EVENTS, ClientEvent

_CODES = {
    "missing": "missing_required_parameter",
    "extra_forbidden": "unknown_parameter",
    "string_type": "invalid_type",
    "int_type": "invalid_type",
    "float_type": "invalid_type",
    "bool_type": "invalid_type",
    "list_type": "invalid_type",
    "dict_type": "invalid_type",
    "none_required": "unsupported",
    "kind": "invalid_type",
}
_RULES = {
    "missing": "must be given",
    "union_tag_invalid": "must have as its type {expected_tags}",
    "union_tag_not_found": "must have a type",
    "too_short": "must hold at least {min_length}",
    "too_long": "must hold at most {max_length}",
    "string_too_short": "must have at least {min_length} letters",
    "string_too_long": "must have at most {max_length} letters",
    "string_pattern_mismatch": "must match {pattern}",
    "extra_forbidden": "must not be given: there is no such field",
    "dict_type": "must be an object",
    "list_type": "must be a list",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "string_type": "must be a string",
    "bool_type": "must be true or false",
    "none_required": "must be null: it is not supported here",
}


def read_event(frame: str | bytes | dict[str, Any], *, max_bytes: int) -> ClientEvent:
    """Read one event of a client.

    Args:
        frame: the text of a WebSocket frame, or an event that is already read. Binary frames are
            refused: the protocol has none.
        max_bytes: of the text in UTF-8.

    Raises:
        ProtocolError: with the client's event_id, where it can be read.
    """
    fields = _fields(frame, max_bytes)
    event_id = fields.get("event_id")
    known_id = event_id if isinstance(event_id, str) and len(event_id) <= 512 else None
    kind = fields.get("type")
    if not isinstance(kind, str) or kind not in CLIENT_EVENTS:
        rule = f"must be one of {', '.join(CLIENT_EVENTS)}"
        found = f"got {shorten(kind)}" if "type" in fields else "and is missing"
        code = "invalid_value" if "type" in fields else "missing_required_parameter"
        raise ProtocolError(f"type {rule}, {found}", code=code, param="type", event_id=known_id)
    try:
        return cast(ClientEvent, _checker(kind)(fields))
    except ValidationError as error:
        raise _explain(error, fields, known_id) from error


def _fields(frame: str | bytes | dict[str, Any], max_bytes: int) -> dict[str, Any]:
    if isinstance(frame, bytes):
        raise ProtocolError(
            f"a frame must be text, got {len(frame)} bytes of binary", code="invalid_frame"
        )
    try:
        text = frame if isinstance(frame, str) else json.dumps(frame)
        data = text.encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:  # ValueError: lone surrogates too
        raise ProtocolError(f"an event must be JSON: {error}", code="invalid_json") from error
    if len(data) > max_bytes:
        raise ProtocolError(
            f"an event must be at most {max_bytes} bytes, got {len(data)}", code="event_too_large"
        )
    try:
        value = pydantic_core.from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise ProtocolError(f"an event must be JSON: {error}", code="invalid_json") from error
    if not isinstance(value, dict):
        raise ProtocolError(
            f"an event must be an object, got {shorten(value)}", code="invalid_type"
        )
    return cast(dict[str, Any], value)


@cache
def _checker(kind: str) -> Callable[[object], object]:
    return TypeAdapter(CLIENT_EVENTS[kind]).validate_python


def _explain(error: ValidationError, fields: dict[str, Any], event_id: str | None) -> ProtocolError:
    """Say what is wrong first, by the first of the findings."""
    first = error.errors(include_url=False, include_context=True)[0]
    kind, param = first["type"], _param(first["loc"], fields, first["type"])
    context = {name: str(value) for name, value in first.get("ctx", {}).items()}
    rule = _RULES.get(kind, first["msg"].replace("Input should", "must", 1)).format(**context)
    found = "" if kind in ("missing", "extra_forbidden") else f", got {shorten(first['input'])}"
    code = _CODES.get(kind, "invalid_value")
    return ProtocolError(f"{param} {rule}{found}", code=code, param=param, event_id=event_id)


def _param(place: tuple[int | str, ...], value: Any, kind: str) -> str:
    """Write a place as "session.audio.input", without the names of a union's branches."""
    path = ""
    for index, step in enumerate(place):
        last = index + 1 == len(place)
        if isinstance(step, int) and isinstance(value, list):
            path, value = f"{path}[{step}]", value[step] if step < len(value) else None
        elif isinstance(value, dict) and (step in value or (last and kind == "missing")):
            path = f"{path}.{step}" if path else str(step)
            value = cast(dict[Any, Any], value).get(step)
    return path[:200] or "event"
