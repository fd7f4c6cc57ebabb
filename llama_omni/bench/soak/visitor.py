"""A visitor: comes, says and does things by chance, and leaves, well-mannered or not."""

import asyncio
import base64
import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from llama_omni.bench.soak.ledger import Ledger, Told
from llama_omni.interfaces import Audio

RATE = 24_000  # Hz: of sessions
_PIECE = RATE // 5  # samples of one append
_TURNS = 5  # at most, of one session


class Visitor:
    """One session.

    Args:
        url: of the server's Realtime API.
        ledger: what all visitors were told.
        random: decides.
        written: questions.
        spoken: questions, at 24 kHz.
        patience_s: for a response to end.
    """

    def __init__(
        self,
        url: str,
        ledger: Ledger,
        random: Random,
        *,
        written: Sequence[str],
        spoken: Sequence[Audio],
        patience_s: float,
    ) -> None:
        self._url, self._ledger, self._random = url, ledger, random
        self._written, self._spoken, self._patience_s = written, spoken, patience_s
        self._told, self._news = Told(ledger), asyncio.Event()
        self._detects, self._closed = True, False
        self._socket: ClientConnection | None = None

    async def run(self) -> None:
        """Come, stay for some turns, and leave."""
        how = "lost"
        async with connect(self._url, max_size=None, open_timeout=self._patience_s) as socket:
            self._socket = socket
            reader = asyncio.create_task(self._read(socket))
            try:
                await self._until(lambda: self._told.begun, "session.created")
                how = await self._stay()
                if how == "abrupt":
                    socket.transport.abort()
            except (ConnectionError, ConnectionClosed) as error:
                self._ledger.breaks(str(error))
            finally:
                await socket.close()
                await asyncio.gather(reader, return_exceptions=True)
                self._told.leave(how)

    async def _stay(self) -> str:
        if self._random.random() < 0.4:
            await self._detect(False)
        for _ in range(self._random.randint(0, _TURNS)):
            await self._turn()
            if self._random.random() < 0.5:
                await self._tidy()
        if self._random.random() < 0.3:  # in the middle of an answer
            await self._ask()
            await self._until(lambda: bool(self._told.open), "response.created")
        return self._random.choice(("clean", "abrupt"))

    # One turn

    async def _turn(self) -> None:
        before = self._told.taken
        kind = self._random.choice(("written", "spoken", "spoken", "beside"))
        self._ledger.done[kind] += 1
        if kind == "spoken":
            await self._speak()
        else:
            await self._ask(beside=kind == "beside")
        await self._until(lambda: self._told.taken > before, "response.created")
        how = self._random.choice(("hear", "hear", "cancel", "barge in", "truncate", "clear"))
        if how != "hear":
            await self._until(lambda: self._sounds or not self._told.open, "sound")
            await self._interrupt(how)
        await self._until(lambda: not self._told.open, "response.done")

    async def _interrupt(self, how: str) -> None:
        if not self._sounds:
            return  # it was written, or is over
        self._ledger.done[how] += 1
        if how == "cancel":
            await self._send("response.cancel")
        elif how == "truncate":
            await self._truncate()
        elif how == "clear":
            await self._send("output_audio_buffer.clear")
        elif self._detects:
            await self._append(self._random.choice(self._spoken)[: RATE // 2])
            await self._append(np.zeros(RATE, np.float32))
        else:
            await self._send("response.cancel")
            await self._ask()

    async def _ask(self, *, beside: bool = False) -> None:
        part = {"type": "input_text", "text": self._random.choice(self._written)}
        item = {"type": "message", "role": "user", "content": [part]}
        if beside:
            await self._send(
                "response.create",
                response={"conversation": "none", "input": [item], "output_modalities": ["text"]},
            )
            return
        await self._send("conversation.item.create", item=item)
        await self._send("response.create")

    async def _speak(self) -> None:
        sound = self._random.choice(self._spoken)
        quiet = np.zeros(RATE, np.float32)
        if self._detects:
            await self._append(np.concatenate([quiet[: RATE // 3], sound, quiet]))
        else:
            await self._append(sound)
            await self._send("input_audio_buffer.commit")
            await self._send("response.create")

    # Between turns

    async def _tidy(self) -> None:
        what = self._random.choice(("delete", "truncate", "retrieve", "switch", "clear input"))
        self._ledger.done[what] += 1
        if what == "switch":
            await self._detect(not self._detects)
        elif what == "clear input":
            await self._append(self._random.choice(self._spoken)[: RATE // 4])
            await self._send("input_audio_buffer.clear")
        elif what == "truncate":
            await self._truncate()
        elif self._told.items:
            name = self._random.choice(self._told.items)
            await self._send(f"conversation.item.{what}", item_id=name)

    async def _truncate(self) -> None:
        if self._told.answers:
            at = {"content_index": 0, "audio_end_ms": self._random.randint(0, 200)}
            item_id = self._told.answers[-1]
            await self._send("conversation.item.truncate", item_id=item_id, **at)

    async def _detect(self, wanted: bool) -> None:
        self._detects = wanted
        detection = {"type": "server_vad", "silence_duration_ms": 400} if wanted else None
        session = {"type": "realtime", "audio": {"input": {"turn_detection": detection}}}
        await self._send("session.update", session=session)

    # The wire

    @property
    def _sounds(self) -> bool:
        return bool(self._told.heard)

    async def _append(self, samples: Audio) -> None:
        data = np.rint(samples * 32_767).astype("<i2").tobytes()
        for first in range(0, len(data), 2 * _PIECE):
            piece = base64.b64encode(data[first : first + 2 * _PIECE]).decode()
            await self._send("input_audio_buffer.append", audio=piece)

    async def _send(self, kind: str, **fields: Any) -> None:
        assert self._socket is not None
        await self._socket.send(json.dumps({"type": kind, **fields}))

    async def _read(self, socket: ClientConnection) -> None:
        try:
            async for frame in socket:
                self._told.see(frame.encode() if isinstance(frame, str) else frame)
                self._news.set()
        finally:
            self._closed = True
            self._news.set()

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until the server has told something."""
        try:
            async with asyncio.timeout(self._patience_s):
                while not condition():
                    if self._closed:
                        raise ConnectionError(f"the server closed a session before {what}")
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise ConnectionError(f"no {what} within {self._patience_s:g} s") from None
