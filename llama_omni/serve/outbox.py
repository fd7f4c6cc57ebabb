"""Where a session's parts put what is to be done, in order."""

from typing import Any

from llama_omni.serve.actions import Action, Send
from llama_omni.serve.errors import ProtocolError
from llama_omni.serve.ids import IdSource


class Outbox:
    """Collects actions; gives every event its event_id."""

    def __init__(self, ids: IdSource) -> None:
        self.ids = ids
        self._actions: list[Action] = []

    def add(self, action: Action) -> None:
        """Put one action last."""
        self._actions.append(action)

    def send(self, kind: str, **fields: Any) -> None:
        """Put one server event last."""
        event = {"type": kind, "event_id": self.ids.new("event"), **fields}
        self._actions.append(Send(event=event))

    def refuse(self, error: ProtocolError, *, event_id: str | None = None) -> None:
        """Put an `error` about what a client sent last."""
        self.error(
            error.message,
            code=error.code,
            param=error.param,
            event_id=event_id or error.event_id,
        )

    def error(
        self,
        message: str,
        *,
        code: str,
        kind: str = "invalid_request_error",
        param: str | None = None,
        event_id: str | None = None,
    ) -> None:
        """Put an `error` last."""
        about = {"type": kind, "code": code, "message": message, "param": param}
        self.send("error", error={**about, "event_id": event_id})

    def take(self) -> list[Action]:
        """Hand over what was collected."""
        actions, self._actions = self._actions, []
        return actions
