"""Names of events, items, responses and calls."""

import secrets
import string
from typing import Protocol, runtime_checkable

_LETTERS = string.ascii_letters + string.digits
_LENGTH = 21  # letters: 125 bits, as long as OpenAI's


@runtime_checkable
class IdSource(Protocol):
    """Where names come from."""

    def new(self, prefix: str) -> str:
        """Return a name that was never given before, such as "item_1"."""
        ...


class RandomIds:
    """Names that nobody can guess: 125 random bits each."""

    def new(self, prefix: str) -> str:
        """Return a name such as "item_Aq0w..."."""
        return f"{prefix}_{''.join(secrets.choice(_LETTERS) for _ in range(_LENGTH))}"


class CountingIds:
    """Names that tests can foresee: "item_1", "item_2"."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def new(self, prefix: str) -> str:
        """Return the next name with this prefix."""
        self._counts[prefix] = self._counts.get(prefix, 0) + 1
        return f"{prefix}_{self._counts[prefix]}"
