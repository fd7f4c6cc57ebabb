"""One real-time client: a microphone that never stops, and a listener with a clock.

What is unusual: nothing is sent ahead of time. A piece leaves when its last sample would have been
recorded, silence too, so the server hears each client as it would hear a person.
"""

import asyncio
import base64
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from time import monotonic

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus, WebSocketException

from llama_omni import audio
from llama_omni.bench.serve.settings import LoadSettings
from llama_omni.bench.serve.speech import Utterance, paused, room
from llama_omni.bench.serve.turns import RATE, Outcome, Turn, TurnWatch
from llama_omni.interfaces import Audio

_OPEN_S = 60.0  # for the connection and the session to begin


@dataclass(kw_only=True, slots=True)
class Microphone:
    """Sends sound at the pace at which it is spoken.

    Args:
        socket: an open session's.
        random: draws the pieces' sizes.
        piece_s: shortest and longest piece.
    """

    socket: ClientConnection
    random: Random
    piece_s: tuple[float, float]
    lags_s: list[float] = field(default_factory=list)  # how late each piece left
    _began: float = 0.0
    _sent: int = 0  # samples
    _next: Audio = field(default_factory=lambda: np.zeros(0, np.float32))

    def say(self, sound: Audio) -> float:
        """Speak after the piece that is being recorded; return when the sound will have ended."""
        self._next = sound
        return self._began + (self._sent + len(sound)) / RATE

    async def run(self) -> None:
        """Record and send for ever."""
        self._began = monotonic()
        while True:
            size = round(self.random.uniform(*self.piece_s) * RATE)
            due = self._began + (self._sent + size) / RATE
            piece, self._next = self._next[:size], self._next[size:]
            self._sent += size
            if len(piece) < size:
                piece = np.concatenate([piece, room(self.random, size - len(piece))])
            data = base64.b64encode(audio.pcm16_encode(piece)).decode()
            await asyncio.sleep(max(0.0, due - monotonic()))
            self.lags_s.append(monotonic() - due)
            await self.socket.send(f'{{"type":"input_audio_buffer.append","audio":"{data}"}}')


@dataclass(kw_only=True, slots=True)
class Talker:
    """A client that asks one question after another, and listens to every answer to its end.

    Args:
        number: of the client.
        url: of the WebSocket.
        questions: at the API's rate.
        settings: pace, pauses and patience.
    """

    number: int
    url: str
    questions: Sequence[Utterance]
    settings: LoadSettings
    turns: list[Turn] = field(default_factory=list)
    lags_s: list[float] = field(default_factory=list)
    _random: Random = field(default_factory=Random)
    _watch: TurnWatch | None = None
    _over: asyncio.Event = field(default_factory=asyncio.Event)

    async def talk(self, *, starts: float, ends: float) -> None:
        """Begin turns until a time has come, or the settings' turns are done.

        Args:
            starts: the clock's reading when the client connects.
            ends: the clock's reading from which no turn begins.
        """
        self._random = Random(f"{self.settings.seed}/{self.number}")
        await asyncio.sleep(max(0.0, starts - monotonic()))
        try:
            async with connect(
                self.url, max_size=None, compression=None, open_timeout=_OPEN_S
            ) as socket:
                await self._session(socket, ends)
        except InvalidStatus as error:
            self._lost("refused", f"HTTP {error.response.status_code}")
        except (WebSocketException, OSError) as error:  # a timeout is an OSError too
            self._lost("failed", type(error).__name__)

    async def _session(self, socket: ClientConnection, ends: float) -> None:
        microphone = Microphone(socket=socket, random=self._random, piece_s=self.settings.piece_s)
        self.lags_s = microphone.lags_s
        asker = asyncio.create_task(self._ask(microphone, ends))
        tasks = (
            asker,
            asyncio.create_task(self._read(socket)),
            asyncio.create_task(microphone.run()),
        )
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()
        if asker not in done:
            raise ConnectionError("the server closed the session")

    async def _ask(self, microphone: Microphone, ends: float) -> None:
        settings, random = self.settings, self._random
        while len(self.turns) < settings.turns if settings.turns else monotonic() < ends:
            await asyncio.sleep(random.uniform(*settings.gap_s))
            said = paused(
                random.choice(self.questions),
                random,
                share=settings.inner_pauses,
                lasts=settings.inner_pause_s,
            )
            watch = TurnWatch(client=self.number, speech_end_s=microphone.say(said.sound))
            self._watch = watch
            self._over.clear()
            while watch.outcome is None:
                left = watch.last_s + settings.answer_s - monotonic()
                if left <= 0:
                    watch.end("unanswered", "no answer in time")
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._over.wait(), left)
            self._watch = None
            self.turns.append(watch.turn())
            await asyncio.sleep(max(0.0, watch.playback.ends_s - monotonic()))

    async def _read(self, socket: ClientConnection) -> None:
        async for frame in socket:
            now = monotonic()
            if self._watch is not None:
                self._watch.see(json.loads(frame), now)
                if self._watch.outcome is not None:
                    self._over.set()

    def _lost(self, outcome: Outcome, detail: str) -> None:
        """Count the turn that a connection's end has cost."""
        watch = self._watch or TurnWatch(client=self.number, speech_end_s=monotonic())
        watch.end(outcome, detail)
        self.turns.append(watch.turn())
