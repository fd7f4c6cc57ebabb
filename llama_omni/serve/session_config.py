"""What is in force in a session, how `session.update` changes it, and how events show it.

What only tunes and is not built here (noise reduction, tracing, the ratio of a truncation,
reasoning, parallel tool calls, log probabilities) is taken, so that stock clients work, and
`session.updated` shows what is in force instead. What would change the answers' meaning and is not
built is refused.
"""

import json
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

from llama_omni.errors import ConfigError
from llama_omni.serve.errors import ProtocolError, shorten
from llama_omni.serve.formats import AudioFormat
from llama_omni.serve.limits import ModelFacts, SessionLimits
from llama_omni.serve.protocol_session import (
    AudioInput,
    FunctionTool,
    ResponsePatch,
    SemanticVad,
    ServerVad,
    SessionPatch,
    ToolChoice,
    Transcription,
    Voice,
)
from llama_omni.serve.turn_settings import TurnSettings

API_VOICES = (
    "alloy",
    "ash",
    "ballad",
    "coral",
    "echo",
    "sage",
    "shimmer",
    "verse",
    "marin",
    "cedar",
)
_PCM = AudioFormat("audio/pcm")
_TURNS: dict[str, dict[str, Any]] = {
    "server_vad": {
        "type": "server_vad",
        "threshold": 0.5,
        "prefix_padding_ms": 300,
        "silence_duration_ms": 500,
        "idle_timeout_ms": None,
        "create_response": True,
        "interrupt_response": True,
    },
    "semantic_vad": {
        "type": "semantic_vad",
        "eagerness": "auto",
        "create_response": True,
        "interrupt_response": True,
    },
}


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionConfig:
    """All that a client can set, complete. A response has one of its own."""

    instructions: str = ""
    modality: Literal["text", "audio"] = "audio"
    voice: str = "default"
    input_format: AudioFormat = _PCM
    output_format: AudioFormat = _PCM
    turn_detection: dict[str, Any] | None = field(default_factory=lambda: {**_TURNS["server_vad"]})
    transcription: dict[str, Any] | None = None
    max_output_tokens: int | Literal["inf"] = "inf"
    temperature: float | None = None  # None is the model's own
    tools: tuple[dict[str, Any], ...] = ()
    tool_choice: str | dict[str, Any] = "auto"

    @property
    def creates(self) -> bool:
        """Whether the end of a turn asks for a response."""
        return self.turn_detection is not None and bool(self.turn_detection["create_response"])

    @property
    def interrupts(self) -> bool:
        """Whether the beginning of a turn stops the response."""
        return self.turn_detection is not None and bool(self.turn_detection["interrupt_response"])

    def turn_settings(self, base: TurnSettings, *, speculate: bool) -> TurnSettings:
        """Return what the turn detector goes by.

        Raises:
            ConfigError: the values do not go together.
        """
        detection = self.turn_detection
        rate = self.input_format.sample_rate
        if detection is None:
            return replace(base, mode="none", sample_rate=rate, idle_timeout_ms=None)
        names = ("threshold", "prefix_padding_ms", "silence_duration_ms", "idle_timeout_ms")
        known = {name: detection[name] for name in (*names, "eagerness") if name in detection}
        known.setdefault("idle_timeout_ms", None)
        return replace(
            base,
            mode=detection["type"],
            sample_rate=rate,
            speculate=speculate and base.speculate and self.creates,
            **known,
        )

    def event(self, session_id: str, model: str) -> dict[str, Any]:
        """As `session.created` and `session.updated` show it."""
        shown = {
            "type": "realtime",
            "object": "realtime.session",
            "id": session_id,
            "model": model,
            "output_modalities": [self.modality],
            "instructions": self.instructions,
            "audio": {
                "input": {
                    "format": self.input_format.event,
                    "transcription": self.transcription,
                    "noise_reduction": None,
                    "turn_detection": self.turn_detection,
                },
                "output": {
                    "format": self.output_format.event,
                    "voice": self.voice,
                    "speed": 1.0,
                },
            },
            "tools": list(self.tools),
            "tool_choice": self.tool_choice,
            "max_output_tokens": self.max_output_tokens,
            "tracing": None,
            "truncation": "auto",
            "prompt": None,
            "include": None,
        }
        return shown if self.temperature is None else {**shown, "temperature": self.temperature}


class ConfigReader:
    """Applies what a client sets: all of it, or nothing and an error."""

    def __init__(self, model: ModelFacts, limits: SessionLimits) -> None:
        self._model, self._limits = model, limits

    def session(
        self, config: SessionConfig, patch: SessionPatch, *, has_spoken: bool
    ) -> SessionConfig:
        """Return the session's configuration with what `session.update` changes.

        Raises:
            ProtocolError: something cannot be had here.
        """
        if "model" in patch and patch["model"] != self._model.name:
            raise _refuse("session.model", f"must stay {self._model.name!r}", patch["model"])
        if patch.get("truncation") == "disabled":
            rule = "must be 'auto': a conversation that is too long goes on without its beginning"
            raise _refuse("session.truncation", rule, "disabled")
        changes = self._common(patch, "session")
        audio = patch.get("audio", {})
        changes |= self._input(config, audio.get("input", {}))
        output = audio.get("output", {})
        if output.get("speed", 1.0) != 1.0:
            raise _refuse(
                "session.audio.output.speed", "must be 1: it is not supported", output.get("speed")
            )
        new = replace(config, **changes, **self._output(output, "session.audio.output"))
        if has_spoken and new.voice != config.voice:
            raise ProtocolError(
                f"session.audio.output.voice must stay {config.voice!r} once a response has "
                f"sounded, got {new.voice!r}",
                code="cannot_update_voice",
                param="session.audio.output.voice",
            )
        try:
            new.turn_settings(self._model.turns, speculate=self._model.speculate)
        except ConfigError as error:
            raise ProtocolError(
                f"session.audio.input.turn_detection must be usable: {error}",
                code="invalid_value",
                param="session.audio.input.turn_detection",
            ) from error
        return new

    def response(self, config: SessionConfig, patch: ResponsePatch) -> SessionConfig:
        """Return the configuration of one response.

        Raises:
            ProtocolError: something cannot be had here.
        """
        output = patch.get("audio", {}).get("output", {})
        changes = self._common(patch, "response")
        return replace(config, **changes, **self._output(output, "response.audio.output"))

    def _common(self, patch: SessionPatch | ResponsePatch, place: str) -> dict[str, Any]:
        changes: dict[str, Any] = {}
        if "instructions" in patch:
            most = self._limits.max_instruction_chars
            if len(patch["instructions"]) > most:
                raise ProtocolError(
                    f"{place}.instructions must have at most {most} letters, "
                    f"got {len(patch['instructions'])}",
                    code="string_above_max_length",
                    param=f"{place}.instructions",
                )
            changes["instructions"] = patch["instructions"]
        if "output_modalities" in patch:
            changes["modality"] = patch["output_modalities"][0]
        if "max_output_tokens" in patch:
            changes["max_output_tokens"] = patch["max_output_tokens"]
        if "temperature" in patch:
            changes["temperature"] = patch["temperature"]
        if "tools" in patch:
            changes["tools"] = self._tools(patch["tools"], f"{place}.tools")
        if "tool_choice" in patch:
            changes["tool_choice"] = self._tool_choice(patch["tool_choice"], place)
        return changes

    def _tools(self, tools: list[FunctionTool], param: str) -> tuple[dict[str, Any], ...]:
        if tools and not self._model.tools:
            raise ProtocolError(
                f"{param} must be empty: the model {self._model.name!r} was not made for "
                f"function tools, got {len(tools)}",
                code="unsupported",
                param=param,
            )
        size = len(json.dumps(tools))
        if len(tools) > self._limits.max_tools or size > self._limits.max_tool_chars:
            raise ProtocolError(
                f"{param} must be at most {self._limits.max_tools} of together "
                f"{self._limits.max_tool_chars} letters, got {len(tools)} of {size}",
                code="tools_too_large",
                param=param,
            )
        return tuple({name: value for name, value in tool.items()} for tool in tools)

    def _tool_choice(self, choice: ToolChoice, place: str) -> str | dict[str, Any]:
        if choice not in ("auto", "none") and not self._model.tools:
            raise _refuse(f"{place}.tool_choice", "must be 'auto' or 'none': no tools here", choice)
        return choice if isinstance(choice, str) else {**choice}

    def _input(self, config: SessionConfig, patch: AudioInput) -> dict[str, Any]:
        changes: dict[str, Any] = {}
        if "format" in patch:
            changes["input_format"] = AudioFormat(patch["format"]["type"])
        if "transcription" in patch:
            changes["transcription"] = _shown(patch["transcription"])
        if "turn_detection" in patch:
            changes["turn_detection"] = _merge(config.turn_detection, patch["turn_detection"])
        return changes

    def _output(self, patch: Any, place: str) -> dict[str, Any]:
        changes: dict[str, Any] = {}
        if "format" in patch:
            changes["output_format"] = AudioFormat(patch["format"]["type"])
        if "voice" in patch:
            changes["voice"] = self._voice(patch["voice"], f"{place}.voice")
        return changes

    def _voice(self, voice: Voice, param: str) -> str:
        name = voice if isinstance(voice, str) else voice["id"]
        if name not in (*self._model.voices, *API_VOICES):
            known = ", ".join((*self._model.voices, *API_VOICES))
            raise _refuse(param, f"must be one of {known}", name)
        return name


def _merge(
    old: dict[str, Any] | None, patch: ServerVad | SemanticVad | None
) -> dict[str, Any] | None:
    """Change what is given of the same kind of detection; another kind begins with its defaults."""
    if patch is None:
        return None
    base = old if old is not None and old["type"] == patch["type"] else _TURNS[patch["type"]]
    return {**base, **patch}


def _shown(patch: Transcription | None) -> dict[str, Any] | None:
    """Keep of a transcription's settings what is there."""
    if patch is None:
        return None
    return {name: value for name, value in cast(dict[str, Any], patch).items() if value is not None}


def _refuse(param: str, rule: str, value: Any) -> ProtocolError:
    return ProtocolError(f"{param} {rule}, got {shorten(value)}", code="unsupported", param=param)
