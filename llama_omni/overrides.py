"""Change fields of a configuration by text, as `--set adapter.stack=3` on the command line.

Any frozen dataclass: values are read by the type of their field, and an unknown name is answered
with the known ones.
"""

import re
import types
from collections.abc import Iterable
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from llama_omni.errors import ConfigError

Config = TypeVar("Config")

_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def override(config: Config, settings: Iterable[str]) -> Config:
    """Return a configuration with some fields changed.

    Args:
        config: A dataclass; its fields may be dataclasses, tuples and dicts of these.
        settings: Each `path=value`: `filters.max_answer_s=60`, `sources.0.limit=500` (the first
            of a tuple), `speeds=0.9,1.1` (a whole tuple), `voices.test=flite:slt` (a dict).
            `none` clears a field that may be empty. Of two values for one field the later
            holds; several fields must be possible together, not one by one.

    Raises:
        ConfigError: No such field, no such value for it, or an impossible one.
    """
    changes = []
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals or not path.strip():
            raise ConfigError(f"a setting must be KEY=VALUE, got {setting!r}")
        changes.append(_Change(path.strip().split("."), text.strip(), path.strip()))
    return _changed(config, type(config), changes)


class _Change(NamedTuple):
    """One setting, seen from the value that it leads through."""

    keys: list[str]  # what is left of the path from here
    text: str
    path: str  # the whole, for messages


def _changed(value: Any, kind: Any, changes: list[_Change]) -> Any:
    """Return `value`, which a field of type `kind` holds, with what the keys lead to replaced.

    All changes within a dataclass are made at once: it is checked when it is constructed.
    """
    inner: dict[str, list[_Change]] = {}
    for change in changes:
        if change.keys:
            within = change._replace(keys=change.keys[1:])
            inner.setdefault(change.keys[0], []).append(within)
        else:  # the whole value, whatever was changed within it before
            value, inner = _parsed(kind, change.text, change.path), {}
    if not inner:
        return value
    if is_dataclass(value) and not isinstance(value, type):
        known = [item.name for item in fields(value) if item.init]
        kinds = get_type_hints(type(value))
        for key, within in inner.items():
            if key not in known:
                raise ConfigError(
                    f"no field {key!r} in {within[0].path!r}; there are {', '.join(known)}"
                )
        new = {key: _changed(getattr(value, key), kinds[key], inner[key]) for key in inner}
        return replace(value, **new)
    if isinstance(value, dict):
        item_kind = [*get_args(_bare(kind)), str, str][1]
        return value | {key: _changed(value.get(key), item_kind, inner[key]) for key in inner}
    if isinstance(value, tuple):
        items = list(value)
        for key, within in inner.items():
            if not re.fullmatch(r"\d+", key) or int(key) >= len(value):
                raise ConfigError(
                    f"{within[0].path} must name one of 0 to {len(value) - 1}, got {key!r}"
                )
            items[int(key)] = _changed(items[int(key)], _item_kind(kind, int(key)), within)
        return tuple(items)
    key, within = next(iter(inner.items()))
    raise ConfigError(f"{within[0].path} must end before {key!r}: what is there has no fields")


def _parsed(kind: Any, text: str, path: str) -> Any:
    """Read a value of a type."""
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        inner = [item for item in get_args(kind) if item is not type(None)]
        if len(inner) < len(get_args(kind)) and text.lower() in ("none", "null"):
            return None
        return _parsed(inner[0], text, path)
    if origin is Literal:
        if text not in get_args(kind):
            raise ConfigError(f"{path} must be one of {', '.join(get_args(kind))}, got {text!r}")
        return text
    if origin is tuple:
        pieces = [piece.strip() for piece in text.split(",")] if text else []
        fixed = [item for item in get_args(kind) if item is not ...]
        if ... not in get_args(kind) and len(pieces) != len(fixed):
            raise ConfigError(f"{path} must be {len(fixed)} values with commas, got {text!r}")
        return tuple(_parsed(_item_kind(kind, i), piece, path) for i, piece in enumerate(pieces))
    if kind is bool:
        if text.lower() not in _BOOLEANS:
            raise ConfigError(f"{path} must be true or false, got {text!r}")
        return _BOOLEANS[text.lower()]
    if kind in (int, float):
        try:
            return kind(text.replace("_", "") if kind is int else text)
        except ValueError as error:
            name = "a whole number" if kind is int else "a number"
            raise ConfigError(f"{path} must be {name}, got {text!r}") from error
    if kind is str:
        return text
    raise ConfigError(f"{path} must be set field by field, as in {path}.NAME={text}")


def _item_kind(kind: Any, position: int) -> Any:
    inner = get_args(_bare(kind))
    return inner[0] if len(inner) == 2 and inner[1] is ... else inner[position]


def _bare(kind: Any) -> Any:
    """Return a type without `| None`."""
    if get_origin(kind) in (Union, types.UnionType):
        return next(item for item in get_args(kind) if item is not type(None))
    return kind
