"""What a client did wrong, in the words of the protocol's `error` event."""

from llama_omni.errors import InputError


class ProtocolError(InputError):
    """A client's event cannot be used; the message says what could.

    Attributes:
        message: a sentence for people.
        code: a word for programs, such as "invalid_value".
        param: where in the event, such as "session.audio.input.format"; None is the event itself.
        event_id: the client's own name of the event, once it is known.
    """

    def __init__(
        self, message: str, *, code: str, param: str | None = None, event_id: str | None = None
    ) -> None:
        super().__init__(message)
        self.message, self.code, self.param, self.event_id = message, code, param, event_id


def shorten(value: object, longest: int = 60) -> str:
    """Write a value for a message: never all of a sound, a key or a flood."""
    if isinstance(value, str | bytes) and len(value) > longest:
        return f"{value[: longest // 2]!r}... ({len(value)} long)"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, float | int) and not isinstance(value, bool):
        number = value if isinstance(value, float) or abs(value) < 10**20 else float("inf")
        return str(number)
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else repr(value)
