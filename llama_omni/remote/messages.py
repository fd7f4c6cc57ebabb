"""What an engine's process and its clients say to each other. Pickled on a pipe of their own.

Every call names its conversation by a number that the client chose, so no call waits for an answer.
"""

from dataclasses import dataclass
from typing import Any

from llama_omni.errors import CapacityError, EngineError, InputError, LlamaOmniError
from llama_omni.interfaces import ReplyEvent, ReplyFailed


@dataclass(frozen=True, slots=True)
class Happened:
    """An event of one conversation's reply."""

    conversation: int
    generation: int
    event: ReplyEvent | ReplyFailed


@dataclass(frozen=True, slots=True)
class Call:
    """A method of the engine, with the conversation as its first argument."""

    method: str
    conversation: int
    arguments: tuple[Any, ...] = ()
    named: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Ready:
    """The engine is loaded."""

    sample_rate: int


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineNumbers:
    """What the engine holds now, and what it has counted since it began."""

    conversations: int = 0
    waiting: int = 0  # replies that wait for room
    reading: int = 0  # replies whose question is being read
    speaking: int = 0  # replies that get tokens
    batch: int = 0  # rows of the last step
    cache_bytes: int = 0
    cache_limit: int = 0
    steps: int = 0
    replies: int = 0  # that ended by themselves
    cancelled: int = 0
    abandoned: int = 0
    failed: int = 0
    refused: int = 0
    evicted: int = 0  # conversations whose keys and values were given up
    tokens: int = 0
    unheard_tokens: int = 0  # of replies that were abandoned
    reused_positions: int = 0  # of prompts, that were still there
    read_positions: int = 0  # of prompts, that were read


@dataclass(frozen=True, slots=True)
class Report:
    """What one or more steps made, and the engine's numbers after them; empty as a sign of life."""

    happened: tuple[Happened, ...]
    numbers: EngineNumbers


@dataclass(frozen=True, slots=True)
class Stop:
    """End the process; sent by the client that started it."""


def failure_of(error: Exception) -> ReplyFailed:
    """Say in a message what an exception says; what was not raised on purpose stays inside."""
    if isinstance(error, CapacityError):
        return ReplyFailed(kind="capacity", message=str(error))
    if isinstance(error, InputError):
        return ReplyFailed(kind="input", message=str(error))
    known = isinstance(error, LlamaOmniError)
    return ReplyFailed(
        kind="engine", message=str(error) if known else "the reply failed inside the engine"
    )


def error_of(failed: ReplyFailed) -> LlamaOmniError:
    """Make the exception that a message stands for."""
    kinds = {"capacity": CapacityError, "input": InputError, "engine": EngineError}
    return kinds[failed.kind](failed.message)
