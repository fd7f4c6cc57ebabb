"""API keys, and the short-lived client secrets that a page may hold. Never logged."""

import hashlib
import hmac
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Any

from llama_omni.errors import CapacityError, ConfigError

ENVIRONMENT = "LLAMA_OMNI_API_KEY"
PROTOCOL, KEY_PROTOCOL = "realtime", "openai-insecure-api-key."  # WebSocket subprotocols
_SHORTEST, _LONGEST = 16, 512  # letters of a key


def read_keys(
    file: Path | None = None, environment: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """Return the keys of a file (one a line, # begins a comment) and of LLAMA_OMNI_API_KEY.

    Raises:
        ConfigError: the file cannot be read or holds none, or a key is too short or odd.
    """
    found = [(os.environ if environment is None else environment).get(ENVIRONMENT, "").strip()]
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file} must be a readable file of keys: {error}") from error
        in_file = [line.strip() for line in lines if not line.strip().startswith("#")]
        if not any(in_file):
            raise ConfigError(f"{file} must hold at least one key, found none")
        found += in_file
    keys = tuple(dict.fromkeys(key for key in found if key))
    for place, key in enumerate(keys, 1):
        if not _SHORTEST <= len(key) <= _LONGEST or not key.isascii() or not key.isprintable():
            raise ConfigError(
                f"a key must have {_SHORTEST} to {_LONGEST} printable ASCII letters, got "
                f"{len(key)} in key {place}"
            )
        if any(letter in ' ,;"' for letter in key):
            raise ConfigError(f"a key must hold no space, comma or quote, got one in key {place}")
    return keys


def offered_key(authorization: str | None, protocols: Sequence[str] = ()) -> str | None:
    """Return the key in an `Authorization: Bearer` header, or in a WebSocket's subprotocols."""
    if authorization is not None:
        kind, _, key = authorization.partition(" ")
        return key.strip() if kind.lower() == "bearer" else None
    named = (one for one in protocols if one.startswith(KEY_PROTOCOL))
    return next((one.removeprefix(KEY_PROTOCOL) for one in named), None)


class Keys:
    """The server's own keys. Takes as long for a wrong one as for a right one."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def knows(self, key: str | None) -> bool:
        """Tell whether it is one of them."""
        digest, found = _digest(key or ""), False
        for known in self._digests:  # all of them, always
            found |= hmac.compare_digest(known, digest)
        return found and key is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class ClientSecret:
    """A key for a browser: short-lived, opens sessions and nothing else."""

    value: str
    expires_at: int  # seconds since 1970
    session: dict[str, Any]  # fields of `session.update` that its sessions begin with


class ClientSecrets:
    """Secrets that were given out and have not expired. Only their digests are kept."""

    def __init__(self, *, max_secrets: int, clock: Callable[[], float] = time) -> None:
        self._max, self._clock = max_secrets, clock
        self._known: dict[bytes, tuple[int, dict[str, Any]]] = {}

    def create(self, session: dict[str, Any], *, seconds: int) -> ClientSecret:
        """Make one.

        Raises:
            CapacityError: too many are valid.
        """
        now = self._clock()
        self._known = {key: kept for key, kept in self._known.items() if kept[0] > now}
        if len(self._known) >= self._max:
            raise CapacityError(f"at most {self._max} client secrets must be valid at a time")
        value, expires_at = f"ek_{secrets.token_urlsafe(32)}", int(now) + seconds
        self._known[_digest(value)] = (expires_at, session)
        return ClientSecret(value=value, expires_at=expires_at, session=session)

    def session_of(self, value: str | None) -> dict[str, Any] | None:
        """Return the fields that a secret's sessions begin with; None: it is not valid."""
        expires_at, session = self._known.get(_digest(value or ""), (0, None))
        return session if expires_at > self._clock() else None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
