"""JSON out of what a language model wrote, and whether it fits a schema.

Servers that enforce a schema need neither; many accept one and ignore it.
"""

import json
import re
from typing import Any

from llama_omni.backends.chat_options import JsonSchema

_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL | re.IGNORECASE)
_KINDS: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "null": type(None),
}


def find_json(text: str) -> Any:
    """Return the JSON value in a text: all of it, a fenced block, or the first object.

    Raises:
        ValueError: there is none; the message says where the best try went wrong.
    """
    candidates = [text.strip(), *(match.strip() for match in _FENCE.findall(text))]
    for candidate in candidates:
        try:
            return json.loads(candidate)
        except (ValueError, RecursionError):
            continue
    decoder = json.JSONDecoder()
    problem = "no JSON object in the text"
    for number, match in enumerate(re.finditer(r"\{", text)):
        if number >= 64:  # a text full of braces is no reply of ours
            break
        try:
            return decoder.raw_decode(text, match.start())[0]
        except (ValueError, RecursionError) as error:
            problem = problem if number else f"broken JSON: {error}"
    raise ValueError(problem)


def misfit(value: Any, schema: JsonSchema, place: str = "the reply") -> str | None:
    """Return what of a value does not fit a schema, None where all fits.

    Checks type, properties, required, additionalProperties, items and enum; other keywords are
    left to the server.
    """
    kind = schema.get("type")
    if isinstance(kind, str) and not _is(value, kind):
        return f"{place} must be of type {kind}, got {type(value).__name__}"
    if "enum" in schema and value not in schema["enum"]:
        return f"{place} must be one of {schema['enum']}, got {value!r}"
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        for name in schema.get("required", ()):
            if name not in value:
                return f"{place} must have the field {name!r}, got {sorted(value)}"
        if schema.get("additionalProperties", True) is False:
            for name in value:
                if name not in properties:
                    return f"{place} must not have the field {name!r}"
        for name, inner in properties.items():
            if name in value and (found := misfit(value[name], inner, f"{place}.{name}")):
                return found
    if isinstance(value, list) and isinstance(schema.get("items"), dict):
        for index, item in enumerate(value):
            if found := misfit(item, schema["items"], f"{place}[{index}]"):
                return found
    return None


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):  # Python counts it as an integer, JSON does not
        return kind == "boolean"
    return isinstance(value, _KINDS.get(kind, object))
