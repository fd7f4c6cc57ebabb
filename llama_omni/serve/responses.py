"""All responses of a session that are being made: at most one in the conversation, some beside."""

from functools import partial
from typing import Any

from llama_omni.interfaces import AudioDelta, ReplyDone, ReplyFailed, TextDelta
from llama_omni.serve.actions import CancelReply, InputUsage, ReplyRequest, StartReply, ToolCall
from llama_omni.serve.conversation import Conversation
from llama_omni.serve.errors import ProtocolError
from llama_omni.serve.items import Item
from llama_omni.serve.limits import SessionLimits
from llama_omni.serve.outbox import Outbox
from llama_omni.serve.response import Reason, Response
from llama_omni.serve.session_config import SessionConfig

SessionReply = TextDelta | AudioDelta | ReplyDone | ReplyFailed | ToolCall | InputUsage

_KEPT_CANCELLED = 8  # replies whose last words may still come, for the history
_FAILURES = {  # kind of failure: type and code of the error
    "input": ("invalid_request_error", "reply_refused"),
    "capacity": ("server_error", "overloaded"),
    "engine": ("server_error", "engine_failed"),
}


class Responses:
    """Starts, shows and ends responses. Events of any other generation show nothing."""

    def __init__(self, outbox: Outbox, conversation: Conversation, limits: SessionLimits) -> None:
        self._out, self._conversation, self._limits = outbox, conversation, limits
        self._active: dict[int, Response] = {}
        self._cancelled: dict[int, Item] = {}
        self._generation = 0
        self._last_spoken: Response | None = None
        self._cut_by_truncate = False

    @property
    def current(self) -> Response | None:
        """The one in the conversation."""
        return next((r for r in self._active.values() if not r.out_of_band), None)

    @property
    def idle(self) -> bool:
        """Whether nothing is being answered."""
        return not self._active

    @property
    def has_spoken(self) -> bool:
        """Whether a response of this session has sounded."""
        return self._last_spoken is not None

    def next_generation(self) -> int:
        """Return a number above all earlier ones."""
        self._generation += 1
        return self._generation

    def check_room(self, *, out_of_band: bool) -> None:
        """See whether one more may begin.

        Raises:
            ProtocolError: as many are being made as may be.
        """
        current = self.current
        if not out_of_band and current is not None:
            raise ProtocolError(
                f"a conversation must have one response at a time; {current.id} is in progress",
                code="conversation_already_has_active_response",
                param="response.conversation",
            )
        beside = sum(response.out_of_band for response in self._active.values())
        if out_of_band and beside >= self._limits.max_out_of_band:
            raise ProtocolError(
                f"at most {self._limits.max_out_of_band} responses must be out of band at a time",
                code="too_many_responses",
                param="response.conversation",
            )

    def start(
        self,
        request: ReplyRequest,
        config: SessionConfig,
        *,
        prepared: int | None = None,
        metadata: dict[str, str] | None = None,
    ) -> None:
        """Begin a response, or show one that was prepared under a generation."""
        conversation = self._conversation
        after = conversation.items.last_id
        response = Response(
            self._out,
            generation=self.next_generation() if prepared is None else prepared,
            config=config,
            request=request,
            conversation_id=None if request.out_of_band else conversation.id,
            metadata=metadata,
            max_delta_s=self._limits.max_delta_s,
            add=_nowhere if request.out_of_band else partial(conversation.show, after=after),
        )
        self._active[response.generation] = response
        self._cut_by_truncate = False
        response.create()
        self._out.send("rate_limits.updated", rate_limits=[self._rate_limit()])
        self._out.add(
            StartReply(
                generation=response.generation,
                response_id=response.id,
                request=request,
                prepared=prepared is not None,
            )
        )

    def reply(self, generation: int, event: SessionReply) -> None:
        """Take the next event of a reply."""
        response = self._active.get(generation)
        if response is None:
            self._note_late(generation, event)
        elif isinstance(event, ReplyFailed):
            kind, code = _FAILURES[event.kind]
            self._fail(response, {"type": kind, "code": code, "message": event.message})
        else:
            response.take(event)
            if response.has_sounded:
                self._last_spoken = response
            if response.status is not None:
                del self._active[generation]

    def interrupt(self) -> None:
        """Somebody speaks: stop what is said in the conversation."""
        if (current := self.current) is not None:
            self._cancel(current, "turn_detected")

    def cancel(self, response_id: str | None) -> None:
        """Stop a response as a client asks.

        Raises:
            ProtocolError: it is not being made.
        """
        chosen = self.current
        if response_id is not None:
            found = (response for response in self._active.values() if response.id == response_id)
            chosen = next(found, None)
        if chosen is not None:
            self._cancel(chosen, "client_cancelled")
        elif self._cut_by_truncate:  # some clients truncate, then cancel
            self._cut_by_truncate = False
        else:
            what = "a response" if response_id is None else repr(response_id)
            raise ProtocolError(
                f"response.cancel must name a response in progress; {what} is not",
                code="response_cancel_not_active",
                param="response_id",
            )

    def cut(self, item: Item) -> None:
        """Stop the response that is saying an item, because its client truncates it."""
        response = self._active.get(item.generation or 0)
        if response is not None:
            self._cancel(response, "client_cancelled")
            self._cut_by_truncate = True

    def clear_output(self) -> str:
        """Cut off the latest sound; return its response's name.

        Raises:
            ProtocolError: no response has sounded.
        """
        if self._last_spoken is None:
            raise ProtocolError(
                "output_audio_buffer.clear must follow a response that has sounded",
                code="output_audio_buffer_empty",
            )
        if self._last_spoken.status is None:
            self._cancel(self._last_spoken, "client_cancelled")
        return self._last_spoken.id

    def stop_all(self) -> None:
        """Cancel everything: the session ends."""
        for response in [*self._active.values()]:
            self._cancel(response, "client_cancelled")

    def forget_all(self) -> None:
        """Cancel everything and tell nobody: the client is gone."""
        for generation in self._active:
            self._out.add(CancelReply(generation=generation))
        self._active.clear()

    def _cancel(self, response: Response, reason: Reason) -> None:
        del self._active[response.generation]
        self._out.add(CancelReply(generation=response.generation))
        response.finish("cancelled", reason=reason)
        if response.item is not None:
            self._cancelled[response.generation] = response.item
            while len(self._cancelled) > _KEPT_CANCELLED:
                del self._cancelled[next(iter(self._cancelled))]

    def _fail(self, response: Response, error: dict[str, Any]) -> None:
        del self._active[response.generation]
        self._out.error(error["message"], code=error["code"], kind=error["type"])
        response.finish("failed", error=error)

    def _note_late(self, generation: int, event: SessionReply) -> None:
        """Learn a cancelled reply's exact tokens, for the history; show nothing."""
        item = self._cancelled.get(generation)
        if item is not None and isinstance(event, ReplyDone):
            del self._cancelled[generation]
            if item.record is not None:
                item.record.note(event)
            item.revision += 1

    def _rate_limit(self) -> dict[str, Any]:
        """The one limit there is: how many responses may be made at once."""
        limit = 1 + self._limits.max_out_of_band
        left = limit - len(self._active)
        return {"name": "requests", "limit": limit, "remaining": left, "reset_seconds": 0.0}


def _nowhere(item: Item) -> None:
    """Out of band: no conversation has the item."""
