"""A talk at a terminal: a client of a session in the same process, without a socket.

It does what a good client of the Realtime API does: it plays what comes, stops when somebody
speaks, and tells the session how much of the answer was heard.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from llama_omni.serve.dialogue import Around, Dialogue
from llama_omni.serve.session import Session
from llama_omni.terminal.listening import Listening
from llama_omni.terminal.mouth import Mouth
from llama_omni.terminal.screen import Screen
from llama_omni.terminal.sound import Microphone, Speakers

QUIT = ("/quit", "/exit", "/q")

_STEP_S = 0.02  # between looks at the microphone and the speakers


@dataclass(slots=True)
class _Question:
    """What was asked last."""

    at: float = 0.0  # when it was complete (time.monotonic)
    waited_s: float | None = None  # from the end of the voice to then; None: it was typed


@dataclass(slots=True)
class _Answer:
    """The answer that is being made, or still said."""

    response_id: str
    item_id: str | None = None
    first_word_at: float | None = None
    status: str | None = None  # None: it is being made


class Talk:
    """One talk, from the greeting to the last answer; its session's `Peer`.

    Args:
        session: not begun yet.
        around: what it works with.
        screen: what it writes on.
        microphone: None: questions are typed only.
        speakers: None: answers are written only.
        half_duplex: hear nothing while an answer sounds.
    """

    def __init__(
        self,
        session: Session,
        around: Around,
        screen: Screen,
        *,
        microphone: Microphone | None = None,
        speakers: Speakers | None = None,
        half_duplex: bool = False,
    ) -> None:
        self._screen = screen
        self._listening = (
            None if microphone is None else Listening(microphone, half_duplex=half_duplex)
        )
        self._mouth = None if speakers is None else Mouth(speakers)
        self._dialogue = Dialogue(session, around, self)
        self._post_roll_s = session.model.turns.post_roll_ms / 1000
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._question = _Question()
        self._answer: _Answer | None = None
        self._asked: str | None = None  # event_id of a response.create that was not answered yet
        self._num_asked = 0
        self._hears_voice = False

    async def run(self, lines: AsyncIterator[str], *, patient: bool = False) -> None:
        """Talk until the lines end, or one of them says so, or `leave` is called.

        Args:
            lines: what is typed. An empty one stops the answer.
            patient: let each answer end before the next line is read, and the last before the end.

        Raises:
            LlamaOmniError: a device is gone.
        """
        try:
            await self._dialogue.begin()
            await self._dialogue.client({"type": "session.update", "session": self._wishes()})
            for device in (self._mouth, self._listening):
                if device is not None:
                    device.start()
            await self._work(lines, patient)
        finally:
            await self._dialogue.close()
            for device in (self._mouth, self._listening):
                if device is not None:
                    device.close()
            self._screen.close()

    def leave(self) -> None:
        """End the talk now."""
        if not self._end.done():
            self._end.set_result(None)

    # What the session says

    def take(self, event: dict[str, Any]) -> None:
        """Take a server event, to be looked at soon."""
        self._events.put_nowait(event)

    def drop_sound(self, response_id: str) -> None:
        """Do nothing: what was taken is dropped when it is stopped, and nothing else asks."""

    def end(self, code: int, reason: str) -> None:  # noqa: ARG002
        """Take that the session is over."""
        self._screen.remark(reason)
        self.leave()

    # What goes on

    async def _work(self, lines: AsyncIterator[str], patient: bool) -> None:
        works = (self._take_events(), self._step(), self._take_lines(lines, patient))
        tasks = [asyncio.create_task(work) for work in works]
        try:
            await asyncio.wait([self._end, *tasks], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
        for end in ends:
            if isinstance(end, Exception):
                raise end

    async def _take_lines(self, lines: AsyncIterator[str], patient: bool) -> None:
        async for line in lines:
            text = line.strip()
            if patient:
                await self._quiet()
            else:
                self._screen.entered()
            if text in QUIT:
                return
            await self._stop()
            if text:
                await self._ask(text)
        if patient:
            await self._quiet()

    async def _take_events(self) -> None:
        while True:
            await self._follow(await self._events.get())

    async def _step(self) -> None:
        """Give the session what is heard; see whether an answer was said to its end."""
        while True:
            sounds = self._mouth is not None and not self._mouth.is_silent
            heard = self._listening.read(speaking=sounds) if self._listening else None
            if heard is not None:
                await self._dialogue.client(heard)
            if self._answer is not None and self._answer.status is not None and not sounds:
                self._settle(self._answer)
            self._screen.state(self._state(sounds))
            await asyncio.sleep(_STEP_S)

    async def _quiet(self) -> None:
        """Wait until nothing is being answered."""
        while self._answer is not None or self._asked is not None:
            await asyncio.sleep(_STEP_S)

    # Asking

    async def _ask(self, text: str) -> None:
        content = [{"type": "input_text", "text": text}]
        item = {"type": "message", "role": "user", "content": content}
        self._question = _Question(at=time.monotonic())
        await self._dialogue.client({"type": "conversation.item.create", "item": item})
        await self._respond()

    async def _respond(self) -> None:
        self._num_asked += 1
        self._asked = f"ask_{self._num_asked}"
        await self._dialogue.client({"type": "response.create", "event_id": self._asked})

    async def _stop(self, *, by_voice: bool = False) -> None:
        """Stop the answer that is made or said, and keep of it only what was heard."""
        answer, self._answer = self._answer, None
        if answer is None:
            return
        self._screen.end_words()
        if self._mouth is not None:
            was_silent, heard_ms = self._mouth.is_silent, self._mouth.stop()
            if answer.status is not None and was_silent:
                return
            self._screen.remark(f"stopped after {heard_ms / 1000:.2f} s of sound")
            if answer.item_id is not None:
                where = {"item_id": answer.item_id, "content_index": 0, "audio_end_ms": heard_ms}
                await self._dialogue.client({"type": "conversation.item.truncate", **where})
                return
        if answer.status is None and not by_voice:  # who speaks has stopped the response already
            cancel = {"type": "response.cancel", "response_id": answer.response_id}
            await self._dialogue.client(cancel)

    # Following

    async def _follow(self, event: dict[str, Any]) -> None:
        """Take a server event."""
        answer = self._answer
        match event["type"]:
            case "response.created":
                self._asked = None
                self._answer = _Answer(response_id=event["response"]["id"])
            case "input_audio_buffer.speech_started":
                self._hears_voice = True
                await self._stop(by_voice=True)
            case "input_audio_buffer.speech_stopped":
                self._note_voice(event["audio_end_ms"])
            case "conversation.item.truncated":
                item = {"item_id": event["item_id"]}
                await self._dialogue.client({"type": "conversation.item.retrieve", **item})
            case "conversation.item.retrieved":
                heard = event["item"]["content"][0]["transcript"]
                self._screen.remark(f"heard: {heard.strip()}" if heard.strip() else "heard nothing")
            case "error":
                self._note_error(event["error"])
            case "response.done" if answer and event["response"]["id"] == answer.response_id:
                answer.status = event["response"]["status"]
            case _ if answer and event.get("response_id") == answer.response_id:
                self._follow_answer(answer, event)
            case _:
                pass

    def _follow_answer(self, answer: _Answer, event: dict[str, Any]) -> None:
        match event["type"]:
            case "response.output_item.added":
                answer.item_id = event["item"]["id"]
            case "response.output_audio_transcript.delta" | "response.output_text.delta":
                answer.first_word_at = answer.first_word_at or time.monotonic()
                self._screen.words(event["delta"])
            case "response.output_audio_transcript.done" | "response.output_text.done":
                self._screen.end_words()
            case "response.output_audio.delta" if self._mouth is not None:
                self._mouth.say(event["delta"])
            case "response.output_audio.done" if self._mouth is not None:
                self._mouth.finish()
            case _:
                pass

    def _note_voice(self, audio_end_ms: int) -> None:
        """Take that a spoken question is complete; its end lies a known piece behind the voice."""
        assert self._listening is not None
        self._hears_voice = False
        waited_s = (self._listening.heard_ms - audio_end_ms) / 1000 + self._post_roll_s
        self._question = _Question(at=time.monotonic(), waited_s=waited_s)

    def _note_error(self, error: dict[str, Any]) -> None:
        """Say what went wrong."""
        if error["event_id"] is not None and error["event_id"] == self._asked:
            self._asked = None
        self._screen.remark(f"error: {error['message']}")

    def _settle(self, answer: _Answer) -> None:
        """Say how fast an answer was that is over."""
        self._answer = None
        asked, waited_s = self._question.at, self._question.waited_s
        first_at, what = answer.first_word_at, "word"
        facts = []
        if self._mouth is not None:
            first_at, what = self._mouth.first_at, "sound"
            facts.append(f"{self._mouth.said_s:.2f} s of sound")
            self._mouth.stop()
        if answer.status == "incomplete":
            facts.append("cut at the longest reply")
        if first_at is not None:
            first = f"first {what} after {1000 * (first_at - asked):.0f} ms"
            if waited_s is not None:
                first += f", {1000 * (first_at - asked + waited_s):.0f} ms after your voice"
            facts.insert(0, first)
        if answer.status != "failed" and facts:
            self._screen.remark(", ".join(facts))

    def _state(self, sounds: bool) -> str:
        if self._hears_voice:
            return "hearing you"
        if self._answer is None and self._asked is None:
            return "listening" if self._listening is not None else "your turn"
        return "speaking" if sounds and self._mouth and self._mouth.first_at else "thinking"

    def _wishes(self) -> dict[str, Any]:
        """What this talk wants of its session."""
        audio = {} if self._listening is not None else {"audio": {"input": _NO_TURNS}}
        modality = "text" if self._mouth is None else "audio"
        return {"type": "realtime", "output_modalities": [modality], **audio}


_NO_TURNS = {"turn_detection": None}
