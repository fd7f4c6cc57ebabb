"""One response: from a reply's events to server events, in the protocol's order.

response.created, rate_limits.updated
response.output_item.added, conversation.item.added, response.content_part.added
...delta
...done, response.content_part.done, conversation.item.done, response.output_item.done
response.done
"""

from collections.abc import Callable
from dataclasses import replace
from math import ceil
from typing import Any, Literal

import numpy as np

from llama_omni.audio import EMBEDDING_RATE, SAMPLE_RATE, UNIT_RATE
from llama_omni.history import ReplyRecord
from llama_omni.interfaces import Audio, AudioDelta, ReplyDone, TextDelta, Turn
from llama_omni.serve.actions import Finished, InputUsage, ReplyRequest, Status, ToolCall
from llama_omni.serve.items import Item, Part
from llama_omni.serve.outbox import Outbox
from llama_omni.serve.resampling import LiveResampler
from llama_omni.serve.session_config import SessionConfig

Reason = Literal["turn_detected", "client_cancelled", "max_output_tokens"]
Add = Callable[[Item], None]

_CHARS_PER_TOKEN = 4  # English; only where a model does not tell how much it read


class Response:
    """Shows one reply. Ends once: what comes later shows nothing."""

    def __init__(
        self,
        outbox: Outbox,
        *,
        generation: int,
        config: SessionConfig,
        request: ReplyRequest,
        conversation_id: str | None,
        metadata: dict[str, str] | None,
        max_delta_s: float,
        add: Add,
    ) -> None:
        self._out, self._config, self._add = outbox, config, add
        self.id = outbox.ids.new("resp")
        self.generation, self.request = generation, request
        self._conversation_id, self._metadata = conversation_id, metadata
        self._max_delta_s = max_delta_s
        self.item: Item | None = None
        self.output: list[Item] = []
        self.status: Status | None = None
        self._input: InputUsage | None = None
        self._num_tokens, self._num_units = 0, 0
        self._resampler: LiveResampler | None = None

    @property
    def out_of_band(self) -> bool:
        """Whether it stays out of the conversation."""
        return self.request.out_of_band

    @property
    def has_sounded(self) -> bool:
        """Whether sound of it was sent."""
        return self.item is not None and self.item.num_samples > 0

    def create(self) -> None:
        """Send `response.created`."""
        self._out.send("response.created", response=self._event("in_progress", None))

    def take(self, event: TextDelta | AudioDelta | ReplyDone | ToolCall | InputUsage) -> None:
        """Show the next event of the reply."""
        match event:
            case InputUsage():
                self._input = event
            case TextDelta():
                self._write(event)
            case AudioDelta():
                self._sound(event)
            case ToolCall():
                self._call(event)
            case ReplyDone():
                self._done(event)

    def finish(
        self,
        status: Status,
        *,
        reason: Reason | None = None,
        error: dict[str, Any] | None = None,
    ) -> None:
        """Close what is open, then the response itself."""
        self.status = status
        if self.item is not None:
            self.item.failed = status == "failed"
            self._close(self.item, "completed" if status == "completed" else "incomplete")
        details: dict[str, Any] = {"type": status}
        if reason is not None:
            details["reason"] = reason
        if error is not None:
            details["error"] = error
        shown = self._event(status, None if status == "completed" else details)
        self._out.send("response.done", response={**shown, "usage": self._usage()})
        sent = self.item.num_samples * 1000 // self.item.reply_rate if self.item else 0
        self._out.add(
            Finished(
                generation=self.generation,
                response_id=self.id,
                status=status,
                audio_ms=sent,
                out_of_band=self.out_of_band,
            )
        )

    def _event(self, status: str, details: dict[str, Any] | None) -> dict[str, Any]:
        config = self._config
        sound = {"format": config.output_format.event, "voice": config.voice}
        return {
            "object": "realtime.response",
            "id": self.id,
            "status": status,
            "status_details": details,
            "output": [item.event() for item in self.output],
            "conversation_id": self._conversation_id,
            "output_modalities": [config.modality],
            "max_output_tokens": config.max_output_tokens,
            "audio": {"output": sound},
            "usage": None,
            "metadata": self._metadata,
        }

    # The message

    def _write(self, event: TextDelta) -> None:
        item = self._open()
        assert item.record is not None
        item.record.note(event)
        self._num_tokens = max(self._num_tokens, event.end_token)
        item.parts[0].text = (item.parts[0].text or "") + event.text
        if event.text:
            self._part_event(item, f"{self._words}.delta", delta=event.text)

    def _sound(self, event: AudioDelta) -> None:
        if self._config.modality == "text":
            return
        item = self._open()
        assert item.record is not None
        item.record.note(replace(event, audio=event.audio[:0]))
        item.reply_rate = event.sample_rate
        item.num_samples += len(event.audio)
        self._num_tokens = max(self._num_tokens, event.end_token)
        if self._resampler is None:
            rate = self._config.output_format.sample_rate
            self._resampler = LiveResampler(event.sample_rate, rate)
        self._send_sound(item, self._resampler.push(event.audio))

    def _send_sound(self, item: Item, samples: Audio) -> None:
        sound = self._config.output_format
        size = max(1, int(self._max_delta_s * sound.sample_rate))
        for first in range(0, len(samples), size):
            delta = sound.encode(samples[first : first + size])
            self._part_event(item, "response.output_audio.delta", delta=delta)

    def _done(self, event: ReplyDone) -> None:
        reply = event.reply
        self._num_tokens = max(self._num_tokens, len(reply.token_ids))
        self._num_units = len(reply.units)
        if self.item is not None:
            assert self.item.record is not None
            self.item.record.note(event)
            if self._resampler is not None:
                nothing = np.zeros(0, np.float32)
                self._send_sound(self.item, self._resampler.push(nothing, final=True))
        match reply.finish_reason:
            case "stop":
                self.finish("completed")
            case "length":
                self.finish("incomplete", reason="max_output_tokens")
            case "cancelled":
                self.finish("cancelled", reason="client_cancelled")

    def _open(self) -> Item:
        """Add the message when its first piece is here."""
        if self.item is not None:
            return self.item
        spoken = self._config.modality == "audio"
        item = Item(
            id=self._out.ids.new("item"),
            role="assistant",
            status="in_progress",
            generation=self.generation,
            record=ReplyRecord(),
        )
        self.item = item
        self._begin(item)
        item.parts.append(Part(kind="output_audio" if spoken else "output_text", text=""))
        self._part_event(item, "response.content_part.added", part=self._part(item))
        return item

    def _close(self, item: Item, status: Literal["completed", "incomplete"]) -> None:
        text = item.parts[0].text or ""
        if self._config.modality == "audio":
            self._part_event(item, "response.output_audio.done")
            self._part_event(item, f"{self._words}.done", transcript=text)
        else:
            self._part_event(item, f"{self._words}.done", text=text)
        self._part_event(item, "response.content_part.done", part=self._part(item))
        self._end(item, status)

    @property
    def _words(self) -> str:
        spoken = self._config.modality == "audio"
        return "response.output_audio_transcript" if spoken else "response.output_text"

    def _part(self, item: Item) -> dict[str, Any]:
        text = item.parts[0].text or ""
        if self._config.modality == "audio":
            return {"type": "audio", "transcript": text}
        return {"type": "text", "text": text}

    def _part_event(self, item: Item, kind: str, **fields: Any) -> None:
        self._item_event(item, kind, content_index=0, **fields)

    def _item_event(self, item: Item, kind: str, **fields: Any) -> None:
        place = self.output.index(item)
        named = {"response_id": self.id, "item_id": item.id, "output_index": place}
        self._out.send(kind, **named, **fields)

    # Any item

    def _begin(self, item: Item) -> None:
        self.output.append(item)
        self._out.send(
            "response.output_item.added",
            response_id=self.id,
            output_index=len(self.output) - 1,
            item=item.event(),
        )
        self._add(item)

    def _end(self, item: Item, status: Literal["completed", "incomplete"]) -> None:
        item.status = status
        self._add(item)
        self._out.send(
            "response.output_item.done",
            response_id=self.id,
            output_index=self.output.index(item),
            item=item.event(),
        )

    def _call(self, call: ToolCall) -> None:
        item = Item(
            id=self._out.ids.new("item"),
            kind="function_call",
            status="in_progress",
            call_id=call.call_id or self._out.ids.new("call"),
            name=call.name,
            generation=self.generation,
        )
        self._begin(item)
        item.value = call.arguments
        kind, named = "response.function_call_arguments", {"call_id": item.call_id}
        if call.arguments:
            self._item_event(item, f"{kind}.delta", **named, delta=call.arguments)
        self._item_event(item, f"{kind}.done", **named, name=call.name, arguments=call.arguments)
        self._end(item, "completed")

    # Usage

    def _usage(self) -> dict[str, Any]:
        told = self._input or _estimate(self.request.turns)
        units = self._num_units
        if not units and self.item is not None:
            units = ceil(self.item.num_samples * UNIT_RATE / self.item.reply_rate)
        read, written = told.text_tokens + told.audio_tokens, self._num_tokens + units
        return {
            "total_tokens": read + written,
            "input_tokens": read,
            "output_tokens": written,
            "input_token_details": {
                "text_tokens": told.text_tokens,
                "audio_tokens": told.audio_tokens,
                "cached_tokens": told.cached_tokens,
            },
            "output_token_details": {"text_tokens": self._num_tokens, "audio_tokens": units},
        }


def _estimate(turns: tuple[Turn, ...]) -> InputUsage:
    text = sum(len(turn.text) for turn in turns if turn.text is not None)
    sound = sum(len(turn.audio) for turn in turns if turn.audio is not None)
    return InputUsage(
        text_tokens=ceil(text / _CHARS_PER_TOKEN),
        audio_tokens=sound * EMBEDDING_RATE // SAMPLE_RATE,
    )
