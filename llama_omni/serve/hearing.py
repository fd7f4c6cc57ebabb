"""A session's turn detector, run beside the event loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor

from llama_omni.serve.actions import ClearAudio, CommitAudio, Listen, Tune
from llama_omni.serve.turn_events import Committed, TurnEvent
from llama_omni.serve.turn_settings import TurnSettings
from llama_omni.serve.turns import TurnDetector
from llama_omni.serve.vad import Vad

Heard = list[TurnEvent | Committed]


class Ears:
    """Does what a session asks of its detector, one thing at a time.

    Args:
        make_vad: makes what tells speech.
        threads: where the sound is judged.
    """

    def __init__(self, make_vad: Callable[[], Vad], threads: Executor) -> None:
        self._make_vad, self._threads = make_vad, threads
        self._detector: TurnDetector | None = None

    async def take(self, action: Listen | Tune | CommitAudio | ClearAudio) -> Heard:
        """Do it; return what it shows."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._take, action)

    def reply_begins(self) -> None:
        """Stop waiting for the idle timeout."""
        if self._detector is not None:
            self._detector.disarm_idle()

    def reply_ended(self, audio_ms: int) -> None:
        """Wait for the idle timeout once this much sound was played."""
        if self._detector is not None:
            self._detector.arm_idle(audio_ms)

    def _take(self, action: Listen | Tune | CommitAudio | ClearAudio) -> Heard:
        match action:
            case Tune():
                return self._tune(action.settings)
            case Listen() if self._detector is not None:
                return list(self._detector.feed(action.samples))
            case CommitAudio() if self._detector is not None:
                return [self._detector.commit()]
            case ClearAudio() if self._detector is not None:
                self._detector.clear()
            case _:
                pass
        return []

    def _tune(self, settings: TurnSettings) -> Heard:
        if self._detector is None:
            self._detector = TurnDetector(settings, self._make_vad())
            return []
        return list(self._detector.update(settings))
