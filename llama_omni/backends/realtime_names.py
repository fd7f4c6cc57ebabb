"""The Realtime API's events under both of their names: the beta's and today's (GA).

Source:
    OpenAI's reference of the Realtime API, and its guide from the beta to GA.
"""

from collections.abc import Mapping
from typing import Any

RATE = 24_000  # Hz: of PCM, both ways

# The beta's names of what a reply is told by.
_TODAY = {
    "response.audio.delta": "response.output_audio.delta",
    "response.audio_transcript.delta": "response.output_audio_transcript.delta",
    "response.text.delta": "response.output_text.delta",
}
_FORMAT = {"type": "audio/pcm", "rate": RATE}


def todays(event: Mapping[str, Any]) -> str:
    """Return an event's type under its name of today."""
    kind = str(event.get("type", ""))
    return _TODAY.get(kind, kind)


def is_beta(session: Mapping[str, Any]) -> bool:
    """Whether the session that a server begins with is one of the beta."""
    return "modalities" in session or "input_audio_format" in session


def session_of(*, beta: bool, speech: bool, voice: str, instructions: str | None) -> dict[str, Any]:
    """Return a session whose turns the client ends itself, and which speaks or writes."""
    told = {} if instructions is None else {"instructions": instructions}
    if beta:
        return {
            "modalities": ["text", "audio"] if speech else ["text"],
            "input_audio_format": "pcm16",
            "output_audio_format": "pcm16",
            "turn_detection": None,
            **({"voice": voice} if voice else {}),
            **told,
        }
    return {
        "type": "realtime",
        "output_modalities": ["audio"] if speech else ["text"],
        "audio": {
            "input": {"format": _FORMAT, "turn_detection": None},
            "output": {"format": _FORMAT, **({"voice": voice} if voice else {})},
        },
        **told,
    }


def response_of(*, beta: bool, speech: bool) -> dict[str, Any]:
    """Return what asks for one reply."""
    if beta:
        return {"modalities": ["text", "audio"] if speech else ["text"]}
    return {"output_modalities": ["audio"] if speech else ["text"]}


def message_of(role: str, text: str, *, beta: bool) -> dict[str, Any]:
    """Return a written turn as an item."""
    answered = "text" if beta else "output_text"
    kind = answered if role == "assistant" else "input_text"
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text}]}


def reason_of(error: object) -> str:
    """Return what a server says of an error, in one line."""
    if not isinstance(error, Mapping):
        return str(error)[:300]
    words = error.get("message") or error.get("code") or error.get("type") or "no reason"
    code = error.get("code")
    return f"{words} ({code})" if code and code != words else str(words)
