"""A reply put together from a Realtime server's events, with the times at which they came."""

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from llama_omni import audio
from llama_omni.backends.realtime_names import RATE, reason_of
from llama_omni.errors import AudioError, EngineError
from llama_omni.interfaces import Audio, AudioDelta, Reply, TextDelta, Timings
from llama_omni.metrics import count_words

_WORDS = ("response.output_audio_transcript.delta", "response.output_text.delta")
_SOUND = "response.output_audio.delta"


class IncomingReply:
    """What came of a reply so far. Each piece of text counts as one token, for its place.

    Args:
        clock: monotonic seconds.
        began: when the end of the question was sent.
    """

    def __init__(self, clock: Callable[[], float], began: float) -> None:
        self._clock, self._began = clock, began
        self._text: list[str] = []
        self._sound: list[Audio] = []
        self._places: list[tuple[int, int]] = []  # of each piece of sound, in pieces of text
        self._samples = 0
        self._first_text_s: float | None = None
        self._first_sound_s: float | None = None
        self._lag: int | None = None
        self._odd = b""  # half a sample, where a piece ends within one

    def take(self, kind: str, event: Mapping[str, Any]) -> TextDelta | AudioDelta | None:
        """Take an event under its name of today; return what it adds, None: nothing.

        Raises:
            EngineError: its sound is no base64.
        """
        if kind in _WORDS:
            return self._words(str(event.get("delta", "")))
        if kind == _SOUND:
            return self._heard(event.get("delta", ""))
        return None

    def done(self, response: Mapping[str, Any]) -> Reply:
        """Return the whole.

        Raises:
            EngineError: it failed.
        """
        status, details = response.get("status"), response.get("status_details") or {}
        reason = details.get("reason")
        if status == "failed" or reason == "content_filter":
            found = details.get("error") or reason or status
            raise EngineError(f"the server's reply failed: {reason_of(found)}")
        finish: Literal["stop", "length", "cancelled"] = "stop"
        if status == "cancelled":
            finish = "cancelled"
        elif status == "incomplete":
            finish = "length"
        return Reply(
            text="".join(self._text),
            audio=np.concatenate([np.zeros(0, np.float32), *self._sound]),
            sample_rate=RATE,
            token_ids=(),
            units=(),
            unit_tokens=(),
            sample_tokens=tuple(self._places),
            lagging_words=self._lag,
            finish_reason=finish,
            timings=Timings(
                first_token_s=self._first_text_s,
                first_audio_s=self._first_sound_s,
                total_s=self._clock() - self._began,
            ),
        )

    def _words(self, text: str) -> TextDelta | None:
        if not text:
            return None
        if self._first_text_s is None:
            self._first_text_s = self._clock() - self._began
        self._text.append(text)
        return TextDelta(text=text, first_token=len(self._text) - 1, end_token=len(self._text))

    def _heard(self, delta: Any) -> AudioDelta | None:
        try:
            data = self._odd + base64.b64decode(delta, validate=True)
            even = len(data) - len(data) % 2
            data, self._odd = data[:even], data[even:]
            sound = audio.pcm16_decode(data)
        except (binascii.Error, TypeError, ValueError, AudioError) as error:
            raise EngineError(f"the server must send sound as base64, got: {error}") from error
        if not len(sound):
            return None
        if self._first_sound_s is None:
            self._first_sound_s = self._clock() - self._began
            self._lag = count_words("".join(self._text))
        first, self._samples = self._samples, self._samples + len(sound)
        place = (self._places[-1][1] if self._places else 0, len(self._text))
        self._sound.append(sound)
        self._places.append(place)
        return AudioDelta(
            audio=sound,
            sample_rate=RATE,
            first_sample=first,
            end_sample=self._samples,
            first_token=place[0],
            end_token=place[1],
        )
