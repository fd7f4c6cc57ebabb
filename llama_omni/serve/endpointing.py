"""From one chunk's probability of speech after another to the beginnings and ends of turns.

Pure bookkeeping on sample numbers of the 16 kHz stream: it knows neither rates, nor the VAD, nor
how the sound came.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from llama_omni.audio import SAMPLE_RATE
from llama_omni.interfaces import Audio
from llama_omni.serve.sample_buffer import SampleBuffer
from llama_omni.serve.semantic import wait_ms
from llama_omni.serve.turn_events import (
    ShortPause,
    SpeechResumed,
    SpeechStarted,
    SpeechStopped,
    TimedOut,
    TurnEvent,
)
from llama_omni.serve.turn_settings import TurnSettings
from llama_omni.serve.vad import CHUNK

PER_MS = SAMPLE_RATE // 1000  # samples


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


class Endpointer:
    """Finds where turns begin and end, and cuts their segments out of a buffer.

    Args:
        settings: When turns begin and end.
        sound: The stream; whoever owns it adds to it, and `forget` drops from it.
    """

    def __init__(self, settings: TurnSettings, sound: SampleBuffer) -> None:
        self.settings, self._sound = settings, sound
        self.judged = sound.end  # where the next chunk begins
        self._loud = 0  # samples of speech, up to now, without a break
        self._turn: _Turn | None = None
        self._idle_from: int | None = None

    @property
    def speaking(self) -> bool:
        """A turn has begun and not ended."""
        return self._turn is not None

    @property
    def first(self) -> int:
        """Where a segment would begin that was cut now."""
        return self._turn.start if self._turn else self._sound.first

    def abandon(self) -> list[TurnEvent]:
        """Forget the running turn, not its sound."""
        events = self.take_back()
        self.judged = self._sound.end
        self._turn, self._loud = None, 0
        return events

    def take_back(self) -> list[TurnEvent]:
        """Take back a short pause that was reported."""
        turn = self._turn
        if turn is None or not turn.told:
            return []
        turn.told = False
        return [SpeechResumed(at_ms=self.judged // PER_MS)]

    def arm_idle(self, at: int | None) -> None:
        """Count the idle timeout from a place of the stream on; None stops it."""
        self._idle_from = at

    def note_words(self, words: str) -> None:
        """Hear what the running turn said so far."""
        if self._turn:
            self._turn.words = words
            if self._turn.segment is not None:
                self._turn.wait = self._wait(self._turn)

    def judge(self, probability: float) -> Iterator[TurnEvent]:
        """Move on by one chunk, to which the VAD gave this probability of speech."""
        self.judged += CHUNK
        settings, turn, now = self.settings, self._turn, self.judged
        self._loud = self._loud + CHUNK if probability >= settings.threshold else 0
        speaks = self._loud >= max(CHUNK, settings.min_speech_ms * PER_MS)
        if turn is None:
            if speaks:
                yield self._begin()
            elif self._idle_from is not None:
                yield from self._idle(self._idle_from)
            return
        if turn.pause is not None and speaks:
            yield from self.take_back()
            turn.longest_pause = max(turn.longest_pause, now - self._loud - turn.pause)
            turn.pause = turn.segment = turn.words = None
        elif turn.pause is None and probability < settings.silence_threshold:
            turn.pause = now - CHUNK
        if turn.pause is not None:
            yield from self._silence(turn, turn.pause)
        elif now + CHUNK - turn.start > settings.max_turn_ms * PER_MS:
            yield self._stop(turn, self._segment(turn, now), now, clipped=True)

    def _begin(self) -> SpeechStarted:
        speech = self.judged - self._loud
        start = max(speech - self.settings.prefix_padding_ms * PER_MS, self._sound.first)
        self._turn = _Turn(start=start, speech_start=max(speech, start))
        self._idle_from = None
        return SpeechStarted(audio_start_ms=start // PER_MS, at_ms=self.judged // PER_MS)

    def _idle(self, since: int) -> Iterator[TurnEvent]:
        timeout_ms, now = self.settings.idle_timeout_ms, self.judged
        if timeout_ms is not None and now - since >= timeout_ms * PER_MS and not self._loud:
            longest = self.settings.max_turn_ms * PER_MS
            segment = self._sound.take(max(since, now - longest), now)
            self._idle_from = None
            self._sound.drop(now)
            yield TimedOut(
                audio_start_ms=since // PER_MS,
                audio_end_ms=now // PER_MS,
                segment=segment,
            )

    def _silence(self, turn: _Turn, pause: int) -> Iterator[TurnEvent]:
        """Report a short pause, or the end of the turn; not while a voice may be coming back."""
        settings, silent = self.settings, self.judged - pause
        needed = settings.short_pause_ms
        if settings.mode == "server_vad":
            needed = min(needed, settings.silence_duration_ms)
        if silent < needed * PER_MS:
            return
        if turn.segment is None:
            turn.segment = self._segment(turn, pause)
            turn.wait = self._wait(turn)
        if silent >= turn.wait and not self._loud:
            yield self._stop(turn, turn.segment, pause, clipped=False)
        elif settings.speculate and not turn.told and not self._loud:
            turn.told = True
            yield ShortPause(at_ms=self.judged // PER_MS, segment=turn.segment)

    def _wait(self, turn: _Turn) -> float:
        """Return how many samples of silence end the turn."""
        if self.settings.mode == "server_vad" or turn.pause is None:
            return float(self.settings.silence_duration_ms * PER_MS)
        speech = self._sound.take(turn.speech_start, turn.pause)
        longest_ms = turn.longest_pause / PER_MS
        eagerness = self.settings.eagerness
        return PER_MS * wait_ms(
            speech, eagerness=eagerness, longest_pause_ms=longest_ms, words=turn.words
        )

    def _segment(self, turn: _Turn, speech_end: int) -> Audio:
        """Copy what the model is asked for a turn whose speech ended there."""
        rolled = speech_end + self.settings.post_roll_ms * PER_MS
        longest = turn.start + self.settings.max_turn_ms * PER_MS
        # A silence_duration_ms below the post-roll ends before it: at what was judged.
        return self._sound.take(turn.start, min(rolled, longest, self.judged))

    def _stop(self, turn: _Turn, segment: Audio, speech_end: int, *, clipped: bool) -> TurnEvent:
        self._turn = self._idle_from = None
        end = turn.start + len(segment)
        self._sound.drop(end)  # no sound is heard in two turns
        return SpeechStopped(
            audio_start_ms=turn.start // PER_MS,
            audio_end_ms=end // PER_MS,
            speech_end_ms=speech_end // PER_MS,
            at_ms=self.judged // PER_MS,
            segment=segment,
            clipped=clipped,
        )

    def forget(self) -> None:
        """Drop sound that no turn can reach back to."""
        settings = self.settings
        keep = self.judged - self._loud - settings.prefix_padding_ms * PER_MS
        if self._turn:
            keep = self._turn.start
        elif self._idle_from is not None:
            keep = min(keep, max(self._idle_from, self.judged - settings.max_turn_ms * PER_MS))
        self._sound.drop(keep)
