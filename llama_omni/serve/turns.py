"""From a session's sound to turns: who speaks when, and what is asked.

Sound at the session's rate is brought to 16 kHz, judged in chunks of 32 ms, and turned into
events. A turn's `segment`, which the model is asked, is

    prefix padding + everything from the first to the last speech chunk + a fixed post-roll

It is known once the post-roll was heard, so a reply prepared at a short pause is asked exactly
what the committed turn asks. All state advances on fixed grids (10 ms of input, 32 ms of sound):
however the input is cut into pieces, the events are the same, sample for sample.
"""

import numpy as np

from llama_omni.audio import SAMPLE_RATE
from llama_omni.interfaces import Audio
from llama_omni.serve.endpointing import PER_MS, Endpointer
from llama_omni.serve.resampling import LiveResampler
from llama_omni.serve.sample_buffer import SampleBuffer
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


class TurnDetector:
    """Finds the turns in one session's sound.

    It does no I/O, and holds no more sound than the longest turn and the longest wait after it.

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
        self._ends = Endpointer(settings, self._sound)
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
        return self._ends.speaking

    @property
    def buffered_ms(self) -> int:
        """How much sound a commit would take, up to the 14 ms that may be on their way."""
        return (self._sound.end - self._ends.first) // PER_MS

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
        Between turns there is only the prefix padding to take.
        """
        self._drain()
        first = self._ends.first
        end = min(self._sound.end, first + self._settings.max_turn_ms * PER_MS)
        segment = self._sound.take(first, end)
        self._restart()
        return Committed(
            audio_start_ms=first // PER_MS, audio_end_ms=end // PER_MS, segment=segment
        )

    def clear(self) -> None:
        """Forget all sound and the running turn; what was prepared for it is void."""
        self._drain()
        self._restart()

    def update(self, settings: TurnSettings) -> list[TurnEvent]:
        """Go by other settings from here on (in a pause, from the next); keep what was heard.

        Another mode ends a running turn without `SpeechStopped` (its sound stays for `commit`).
        """
        events: list[TurnEvent] = []
        old, self._settings = self._settings, settings
        if settings.sample_rate != old.sample_rate:
            events += self._drain()
            self._fed_ms += 1000.0 * self._fed / old.sample_rate
            self._fed = 0
            self._resampler = LiveResampler(settings.sample_rate, SAMPLE_RATE)
        if settings.mode != old.mode:
            self._sound.drop(self._ends.first)
            events += self._ends.abandon()
            self._vad.reset()
            if self._is_full:  # sound is missing: places in what is held are no longer times
                self._restart()
        elif not settings.speculate:
            events += self._ends.take_back()
        if settings.idle_timeout_ms is None or settings.mode == "none":
            self._ends.arm_idle(None)
        self._ends.settings = settings
        return events

    def arm_idle(self, delay_ms: int = 0) -> None:
        """Begin to wait for the idle timeout, `delay_ms` from now: when the reply was played."""
        if self._settings.idle_timeout_ms is not None and self._settings.mode != "none":
            self._ends.arm_idle(self._sound.end + max(0, delay_ms) * PER_MS)

    def disarm_idle(self) -> None:
        """Stop waiting for the idle timeout: a reply begins."""
        self._ends.arm_idle(None)

    def note_words(self, words: str) -> None:
        """Tell what the running turn said so far, for `semantic_vad`; void when speech goes on."""
        self._ends.note_words(words)

    def _drain(self) -> list[TurnEvent]:
        """Hear what is still on its way through the resampler."""
        events = self._hear(self._resampler.push(self._raw, final=True))
        self._raw = self._raw[:0]
        return events

    def _restart(self) -> None:
        """Begin again with nothing heard, at the present time."""
        self._resampler = LiveResampler(self._settings.sample_rate, SAMPLE_RATE)
        self._sound.restart(self.now_ms * PER_MS)
        self._ends.abandon()
        self._vad.reset()
        self._is_full = False

    def _hear(self, sound: Audio) -> list[TurnEvent]:
        if self._ends.settings.mode == "none":
            return self._store(sound)
        events: list[TurnEvent] = []
        self._sound.append(sound)
        ends = self._ends
        while self._sound.end - ends.judged >= CHUNK:
            chunk = self._sound.take(ends.judged, ends.judged + CHUNK)
            for event in ends.judge(self._vad.probability(chunk)):
                events.append(event)
                if isinstance(event, SpeechStopped) and not event.clipped:
                    self._vad.reset()
            ends.forget()
        return events

    def _store(self, sound: Audio) -> list[TurnEvent]:
        """Keep sound for a commit, up to the longest turn."""
        room = self._ends.settings.max_turn_ms * PER_MS - len(self._sound)
        self._sound.append(sound[: max(0, room)])
        if len(sound) <= room or self._is_full:
            return []
        self._is_full = True
        return [BufferFull(at_ms=self._sound.end // PER_MS)]
