"""Streaming speech-to-speech language models (LLaMA-Omni, arXiv 2409.06666).

    assistant = llama_omni.load()
    reply = assistant.reply("question.wav")
    reply.save("answer.wav")

Importing this package loads no torch; `load` does.
"""

from typing import TYPE_CHECKING, Any

from llama_omni.errors import LlamaOmniError
from llama_omni.interfaces import (
    Assistant,
    AudioDelta,
    Conversation,
    Reply,
    ReplyDone,
    ReplyOptions,
    TextDelta,
    Turn,
)

if TYPE_CHECKING:
    from llama_omni.loading import load

__version__ = "0.1.0"

__all__ = [
    "Assistant",
    "AudioDelta",
    "Conversation",
    "LlamaOmniError",
    "Reply",
    "ReplyDone",
    "ReplyOptions",
    "TextDelta",
    "Turn",
    "__version__",
    "load",
]


def __getattr__(name: str) -> Any:
    """Import `load` (and with it torch) the first time that somebody asks for it."""
    if name == "load":
        from llama_omni.loading import load

        return load
    raise AttributeError(f"module 'llama_omni' has no attribute {name!r}")
