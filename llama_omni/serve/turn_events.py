"""What the turn detector reports. Times are in ms of the session's input audio, from its start."""

from dataclasses import dataclass

from llama_omni.interfaces import Audio


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeechStarted:
    """Somebody speaks. The moment to stop a reply that is playing."""

    audio_start_ms: int  # where the turn's segment will begin, prefix padding included
    at_ms: int  # how much had been heard when this was known


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ShortPause:
    """The turn may be over: a reply to `segment` can be prepared, unseen."""

    at_ms: int
    segment: Audio  # (S,) at 16 kHz; that of `SpeechStopped`, unless speech goes on


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeechResumed:
    """The turn is not over: what was prepared since the last `ShortPause` is void."""

    at_ms: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SpeechStopped:
    """The turn is over, and `segment` is what is asked."""

    audio_start_ms: int  # where the segment begins
    audio_end_ms: int  # where the segment ends, post-roll included
    speech_end_ms: int  # where the voice was last heard
    at_ms: int  # how much had been heard when this was known; the wait is at_ms - speech_end_ms
    segment: Audio  # (S,) at 16 kHz
    clipped: bool = False  # the turn was cut at its longest; what follows is a turn of its own


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TimedOut:
    """Nobody spoke for the idle timeout; `segment` is what was heard instead."""

    audio_start_ms: int
    audio_end_ms: int
    segment: Audio  # (S,) at 16 kHz


@dataclass(frozen=True, kw_only=True, slots=True)
class BufferFull:
    """Without detection: the buffer holds its longest turn; sound is dropped until commit."""

    at_ms: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Committed:
    """What `commit` took out of the buffer; empty if there was nothing."""

    audio_start_ms: int
    audio_end_ms: int
    segment: Audio  # (S,) at 16 kHz


TurnEvent = SpeechStarted | ShortPause | SpeechResumed | SpeechStopped | TimedOut | BufferFull
