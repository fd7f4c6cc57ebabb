"""Names of events, items, responses and calls."""

import secrets
from typing import Protocol, runtime_checkable

_BYTES = 12  # 96 bits


@runtime_checkable
class IdSource(Protocol):
    """Where names come from."""

    def new(self, prefix: str) -> str:
        """Return a name that was never given before, such as "item_1"."""
        ...


class RandomIds:
    """Names that nobody can guess: 96 random bits each."""

    def new(self, prefix: str) -> str:
        """Return a name such as "item_3f2c..."."""
        return f"{prefix}_{secrets.token_hex(_BYTES)}"


class CountingIds:
    """Names that tests can foresee: "item_1", "item_2"."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def new(self, prefix: str) -> str:
        """Return the next name with this prefix."""
        self._counts[prefix] = self._counts.get(prefix, 0) + 1
        return f"{prefix}_{self._counts[prefix]}"
