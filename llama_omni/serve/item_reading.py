"""Make an item of what a client sent, within the limits."""

from collections.abc import Sequence

from llama_omni.serve.errors import ProtocolError
from llama_omni.serve.formats import AudioFormat, to_model_rate
from llama_omni.serve.ids import IdSource
from llama_omni.serve.items import Item, Part
from llama_omni.serve.limits import ModelFacts, SessionLimits
from llama_omni.serve.protocol_items import (
    AnyItem,
    AssistantMessage,
    AssistantPart,
    FunctionCall,
    FunctionCallOutput,
    SystemMessage,
    SystemPart,
    UserMessage,
    UserPart,
)


class ItemReader:
    """Makes items of what a client sent."""

    def __init__(self, model: ModelFacts, limits: SessionLimits, ids: IdSource) -> None:
        self._model, self._limits, self._ids = model, limits, ids

    def read(self, item: AnyItem, sound: AudioFormat, *, param: str) -> Item:
        """Return the item that a client describes.

        Raises:
            ProtocolError: it is too large, says nothing, or the model has no tools.
        """
        item_id = item.get("id") or self._ids.new("item")
        if item["type"] == "message":
            return self._message(item, item_id, sound, param)
        return self._call(item, item_id, param)

    def _message(
        self,
        item: UserMessage | SystemMessage | AssistantMessage,
        item_id: str,
        sound: AudioFormat,
        param: str,
    ) -> Item:
        content: Sequence[UserPart | SystemPart | AssistantPart] = item["content"]
        parts = [
            self._part(part, sound, f"{param}.content[{place}]")
            for place, part in enumerate(content)
        ]
        self._check_size(sum(len(part.text or "") for part in parts), param)
        return Item(id=item_id, role=item["role"], parts=parts)

    def _part(
        self, part: UserPart | SystemPart | AssistantPart, sound: AudioFormat, param: str
    ) -> Part:
        name = "audio" if part["type"] == "input_audio" else "text"
        value = part.get(name)
        if not isinstance(value, str) or not value:
            raise ProtocolError(
                f"{param}.{name} must be given and not be empty",
                code="missing_required_parameter",
                param=f"{param}.{name}",
            )
        if part["type"] != "input_audio":
            return Part(kind=part["type"], text=value)
        limits = self._limits
        samples = sound.decode(value, param=f"{param}.audio", max_s=limits.max_turn_s)
        if len(samples) < limits.min_turn_s * sound.sample_rate:
            raise ProtocolError(
                f"{param}.audio must be at least {limits.min_turn_s:g} s, "
                f"got {len(samples) / sound.sample_rate:.3f} s",
                code="audio_too_short",
                param=f"{param}.audio",
            )
        heard = to_model_rate(samples, sound.sample_rate)
        return Part(kind="input_audio", text=part.get("transcript"), audio=heard)

    def _call(self, item: FunctionCall | FunctionCallOutput, item_id: str, param: str) -> Item:
        if not self._model.tools:
            raise ProtocolError(
                f"{param} must be a message: the model {self._model.name!r} was not made for "
                f"function tools, got {item['type']}",
                code="unsupported",
                param=param,
            )
        if item["type"] == "function_call":
            call_id = item.get("call_id") or self._ids.new("call")
            name, value = item["name"], item["arguments"]
        else:
            call_id, name, value = item["call_id"], "", item["output"]
        self._check_size(len(value), param)
        return Item(id=item_id, kind=item["type"], call_id=call_id, name=name, value=value)

    def _check_size(self, size: int, param: str) -> None:
        if size > self._limits.max_item_chars:
            raise ProtocolError(
                f"{param} must have at most {self._limits.max_item_chars} letters, got {size}",
                code="item_too_large",
                param=param,
            )
