"""From a session's sound to turns: who speaks when, and what is asked.

Sound at the session's rate is brought to 16 kHz, judged in chunks of 32 ms, and turned into
events. A turn's `segment`, which the model is asked, is

    prefix padding + everything from the first to the last speech chunk + a fixed post-roll

It is known once the post-roll was heard, so a reply prepared at a short pause is asked exactly
what the committed turn asks. All state advances on fixed grids (10 ms of input, 32 ms of sound):
however the input is cut into pieces, the events are the same, sample for sample.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from llama_omni.audio import SAMPLE_RATE
from llama_omni.interfaces import Audio
from llama_omni.serve.resampling import LiveResampler
from llama_omni.serve.sample_buffer import SampleBuffer
from llama_omni.serve.semantic import wait_ms
from llama_omni.serve.turn_events import (
    BufferFull,
    Committed,
    ShortPause,
    SpeechResumed,
    SpeechStarted,
    SpeechStopped,
    TimedOut,
    TurnEvent,
)
from llama_omni.serve.turn_settings import TurnSettings
from llama_omni.serve.vad import CHUNK, Vad

__all__ = [
    "BufferFull",
    "Committed",
    "ShortPause",
    "SpeechResumed",
    "SpeechStarted",
    "SpeechStopped",
    "TimedOut",
    "TurnDetector",
    "TurnEvent",
    "TurnSettings",
]

_BLOCKS_PER_S = 100  # the input is resampled 10 ms at a time
_PER_MS = SAMPLE_RATE // 1000  # samples


@dataclass(slots=True)
class _Turn:
    """A turn that has begun. Places are sample numbers of the 16 kHz stream."""

    start: int  # of the segment
    speech_start: int
    pause: int | None = None  # where the silence began that goes on now
    segment: Audio | None = None  # set at the short pause
    told: bool = False  # the short pause was reported
    wait: float = 0.0  # samples of silence that end the turn, once the segment is set
    longest_pause: int = 0  # samples of silence after which speech went on
    words: str | None = None


class TurnDetector:
    """Finds the turns in one session's sound.

    It does no I/O, and holds no more sound than the longest turn and the longest wait after it
    (or than the idle timeout, while that runs).

    Args:
        settings: When turns begin and end.
        vad: What tells speech; never asked while the mode is "none".
    """

    def __init__(self, settings: TurnSettings, vad: Vad) -> None:
        self._settings, self._vad = settings, vad
        self._resampler = LiveResampler(settings.sample_rate, SAMPLE_RATE)
        self._raw = np.zeros(0, np.float32)  # input that does not fill a block yet
        self._fed_ms = 0.0  # of input at rates that the session had before
        self._fed = 0  # input samples at the present rate
        self._sound = SampleBuffer()
        self._judged = 0  # where the next chunk begins
        self._free = 0  # where the last segment ended: no sound is heard in two turns
        self._loud = 0  # samples of speech, up to now, without a break
        self._turn: _Turn | None = None
        self._idle_from: int | None = None
        self._is_full = False

    @property
    def settings(self) -> TurnSettings:
        """What the detector goes by now."""
        return self._settings

    @property
    def now_ms(self) -> int:
        """How much sound the session has sent."""
        return round(self._fed_ms + 1000.0 * self._fed / self._settings.sample_rate)

    @property
    def speaking(self) -> bool:
        """A turn has begun and not ended."""
        return self._turn is not None

    @property
    def buffered_ms(self) -> int:
        """How much sound a commit would take, up to the 10 ms that are on the way."""
        first = self._turn.start if self._turn else max(self._sound.first, self._free)
        return (self._sound.end - first) // _PER_MS

    def feed(self, samples: Audio) -> list[TurnEvent]:
        """Hear (S,) more samples at the session's rate; return what they show."""
        events: list[TurnEvent] = []
        self._fed += len(samples)
        self._raw = np.concatenate([self._raw, samples], dtype=np.float32)
        block = max(1, self._settings.sample_rate // _BLOCKS_PER_S)
        whole = len(self._raw) - len(self._raw) % block
        for first in range(0, whole, block):
            events += self._hear(self._resampler.push(self._raw[first : first + block]))
        self._raw = self._raw[whole:].copy()
        return events

    def commit(self) -> Committed:
        """Take the turn's sound so far (without detection: all since the last commit or clear).

        A running turn ends here without `SpeechStopped`; what was prepared for it is void.
        """
        self._drain()
        first = self._turn.start if self._turn else max(self._sound.first, self._free)
        end = min(self._sound.end, first + self._settings.max_turn_ms * _PER_MS)
        segment = self._sound.take(first, end)
        self._restart()
        return Committed(
            audio_start_ms=first // _PER_MS, audio_end_ms=end // _PER_MS, segment=segment
        )

    def clear(self) -> None:
        """Forget all sound and the running turn; what was prepared for it is void."""
        self._drain()
        self._restart()

    def update(self, settings: TurnSettings) -> list[TurnEvent]:
        """Go by other settings from here on; sound that was heard is kept.

        Another mode ends a running turn without `SpeechStopped` (its sound stays for `commit`).
        """
        events: list[TurnEvent] = []
        if settings.sample_rate != self._settings.sample_rate:
            events += self._drain()
            self._fed_ms += 1000.0 * self._fed / self._settings.sample_rate
            self._fed = 0
            self._resampler = LiveResampler(settings.sample_rate, SAMPLE_RATE)
        turn = self._turn
        if turn and (settings.mode != self._settings.mode or not settings.speculate):
            events += self._untold(turn)
        if settings.mode != self._settings.mode:
            self._sound.drop(turn.start if turn else self._free)
            self._turn, self._loud, self._is_full = None, 0, False
            self._judged = self._sound.end
            self._vad.reset()
        self._settings = settings
        return events

    def arm_idle(self, delay_ms: int = 0) -> None:
        """Begin to wait for the idle timeout, `delay_ms` from now: when the reply was played."""
        if self._settings.idle_timeout_ms is not None and self._settings.mode != "none":
            self._idle_from = self._sound.end + max(0, delay_ms) * _PER_MS

    def disarm_idle(self) -> None:
        """Stop waiting for the idle timeout: a reply begins."""
        self._idle_from = None

    def note_words(self, words: str) -> None:
        """Tell what the running turn said so far, for `semantic_vad`; void when speech goes on."""
        if self._turn:
            self._turn.words = words
            if self._turn.segment is not None:
                self._turn.wait = self._wait(self._turn)

    def _drain(self) -> list[TurnEvent]:
        """Hear what is still on its way through the resampler."""
        events = self._hear(self._resampler.push(self._raw, final=True))
        self._raw = self._raw[:0]
        return events

    def _restart(self) -> None:
        """Begin again with nothing heard, at the present time."""
        self._resampler = LiveResampler(self._settings.sample_rate, SAMPLE_RATE)
        self._sound.restart(self.now_ms * _PER_MS)
        self._judged = self._free = self._sound.end
        self._turn, self._loud, self._is_full = None, 0, False
        if self._idle_from is not None:
            self._idle_from = max(self._idle_from, self._sound.end)
        self._vad.reset()

    def _hear(self, sound: Audio) -> list[TurnEvent]:
        if self._settings.mode == "none":
            return self._store(sound)
        events: list[TurnEvent] = []
        self._sound.append(sound)
        while self._sound.end - self._judged >= CHUNK:
            chunk = self._sound.take(self._judged, self._judged + CHUNK)
            self._judged += CHUNK
            events += self._judge(self._vad.probability(chunk))
            self._forget()
        return events

    def _store(self, sound: Audio) -> list[TurnEvent]:
        """Keep sound for a commit, up to the longest turn."""
        room = self._settings.max_turn_ms * _PER_MS - len(self._sound)
        self._sound.append(sound[: max(0, room)])
        if len(sound) <= room or self._is_full:
            return []
        self._is_full = True
        return [BufferFull(at_ms=self._sound.end // _PER_MS)]

    def _judge(self, probability: float) -> Iterator[TurnEvent]:
        """Move on by one chunk, which ends at `_judged`."""
        settings, turn, now = self._settings, self._turn, self._judged
        self._loud = self._loud + CHUNK if probability >= settings.threshold else 0
        speaks = self._loud >= max(CHUNK, settings.min_speech_ms * _PER_MS)
        if turn is None:
            if speaks:
                yield self._begin()
            elif self._idle_from is not None:
                yield from self._idle(self._idle_from)
            return
        if turn.pause is not None and speaks:
            yield from self._untold(turn)
            turn.longest_pause = max(turn.longest_pause, now - self._loud - turn.pause)
            turn.pause = turn.segment = turn.words = None
        elif turn.pause is None and probability < settings.silence_threshold:
            turn.pause = now - CHUNK
        if turn.pause is not None:
            yield from self._silence(turn, turn.pause)
        elif now - turn.start >= settings.max_turn_ms * _PER_MS:
            yield self._stop(turn, self._segment(turn, now), now, clipped=True)

    def _begin(self) -> SpeechStarted:
        speech = self._judged - self._loud
        start = max(speech - self._settings.prefix_padding_ms * _PER_MS, self._free)
        start = max(start, self._sound.first)
        self._turn = _Turn(start=start, speech_start=speech)
        self._idle_from = None
        return SpeechStarted(audio_start_ms=start // _PER_MS, at_ms=self._judged // _PER_MS)

    def _idle(self, since: int) -> Iterator[TurnEvent]:
        timeout_ms, now = self._settings.idle_timeout_ms, self._judged
        if timeout_ms is not None and now - since >= timeout_ms * _PER_MS and not self._loud:
            segment = self._sound.take(max(since, self._free), now)
            self._idle_from, self._free = None, now
            yield TimedOut(
                audio_start_ms=(now - len(segment)) // _PER_MS,
                audio_end_ms=now // _PER_MS,
                segment=segment,
            )

    def _silence(self, turn: _Turn, pause: int) -> Iterator[TurnEvent]:
        """Report a short pause, or the end of the turn; not while a voice may be coming back."""
        settings, silent = self._settings, self._judged - pause
        needed = settings.short_pause_ms
        if settings.mode == "server_vad":
            needed = min(needed, settings.silence_duration_ms)
        if silent < needed * _PER_MS:
            return
        if turn.segment is None:
            turn.segment = self._segment(turn, pause)
            turn.wait = self._wait(turn)
        if silent >= turn.wait and not self._loud:
            yield self._stop(turn, turn.segment, pause, clipped=False)
        elif settings.speculate and not turn.told and not self._loud:
            turn.told = True
            yield ShortPause(at_ms=self._judged // _PER_MS, segment=turn.segment)

    def _untold(self, turn: _Turn) -> list[TurnEvent]:
        """Take back a short pause that was reported."""
        told, turn.told = turn.told, False
        return [SpeechResumed(at_ms=self._judged // _PER_MS)] if told else []

    def _wait(self, turn: _Turn) -> float:
        """Return how many samples of silence end the turn."""
        if self._settings.mode == "server_vad" or turn.pause is None:
            return float(self._settings.silence_duration_ms * _PER_MS)
        speech = self._sound.take(turn.speech_start, turn.pause)
        longest_ms = turn.longest_pause / _PER_MS
        eagerness = self._settings.eagerness
        return _PER_MS * wait_ms(
            speech, eagerness=eagerness, longest_pause_ms=longest_ms, words=turn.words
        )

    def _segment(self, turn: _Turn, speech_end: int) -> Audio:
        """Copy what the model is asked for a turn whose speech ended there."""
        settings = self._settings
        roll_ms = settings.post_roll_ms
        if settings.mode == "server_vad":  # a wait below the post-roll ends before it
            roll_ms = min(roll_ms, settings.silence_duration_ms)
        longest = turn.start + settings.max_turn_ms * _PER_MS
        return self._sound.take(turn.start, min(speech_end + roll_ms * _PER_MS, longest))

    def _stop(self, turn: _Turn, segment: Audio, speech_end: int, *, clipped: bool) -> TurnEvent:
        self._turn = self._idle_from = None
        self._free = turn.start + len(segment)
        self._loud = 0
        if not clipped:
            self._vad.reset()
        return SpeechStopped(
            audio_start_ms=turn.start // _PER_MS,
            audio_end_ms=self._free // _PER_MS,
            speech_end_ms=speech_end // _PER_MS,
            at_ms=self._judged // _PER_MS,
            segment=segment,
            clipped=clipped,
        )

    def _forget(self) -> None:
        """Drop sound that no turn can reach back to."""
        settings = self._settings
        keep = self._judged - self._loud - settings.prefix_padding_ms * _PER_MS
        if self._turn:
            keep = self._turn.start
        elif self._idle_from is not None:
            timeout = (settings.idle_timeout_ms or 0) * _PER_MS
            keep = min(keep, max(self._idle_from, self._judged - timeout - CHUNK))
        self._sound.drop(keep)
