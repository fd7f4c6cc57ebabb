"""Any server that speaks the Realtime API as an `Assistant`: ours, GPT-4o, and others.

Each conversation is a session with a socket of its own, and the server keeps its history. Turn
detection is off: the question's sound is sent, committed, and a response asked for, so that the
time to first audio counts from the end of the question that was sent. What the API cannot say is
not known of such a reply: its units and tokens, its phases, and its chunk size, which is the
server's own. Temperature is sent where it is not 0; the longest reply is the server's.
"""

import base64
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from llama_omni import audio
from llama_omni.backends.realtime_names import (
    RATE,
    is_beta,
    message_of,
    reason_of,
    response_of,
    session_of,
    todays,
)
from llama_omni.backends.realtime_options import RealtimeOptions
from llama_omni.backends.realtime_reply import IncomingReply
from llama_omni.backends.realtime_socket import RealtimeSocket
from llama_omni.errors import EngineError, InputError
from llama_omni.interfaces import (
    Audio,
    Question,
    Reply,
    ReplyDone,
    ReplyEvent,
    ReplyOptions,
    Turn,
)

_PIECE_S = 0.1  # of sound in one event


class RealtimeAssistant:
    """A server of the Realtime API.

    Args:
        options: which, and how; also as text, see `RealtimeOptions.of`.
        system: instructions of every conversation; None are the server's own.
        clock: monotonic seconds.
        sleep: waits between pieces of a question that is sent as it was spoken.

    Raises:
        ConfigError: the text is no such server.
    """

    def __init__(
        self,
        options: RealtimeOptions | str,
        *,
        system: str | None = None,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.options = RealtimeOptions.of(options) if isinstance(options, str) else options
        self.system = system
        self.clock, self.sleep = clock, sleep

    @property
    def sample_rate(self) -> int:
        """Samples per second of its replies."""
        return RATE

    def conversation(self, system: str | None = None) -> "RealtimeConversation":
        """Begin a conversation; it connects when it is first asked."""
        return RealtimeConversation(self, system if system is not None else self.system)

    def stream(
        self, question: Question, options: ReplyOptions | None = None, **changes: Any
    ) -> Iterator[ReplyEvent]:
        """Answer one question in a session of its own, event by event."""
        conversation = self.conversation()
        try:
            yield from conversation.stream(question, options, **changes)
        finally:
            conversation.close()

    def reply(
        self, question: Question, options: ReplyOptions | None = None, **changes: Any
    ) -> Reply:
        """Answer one question in a session of its own, all at once."""
        return _last(self.stream(question, options, **changes))


class RealtimeConversation:
    """One session of a server; a lost one goes on in a new session, told the words so far."""

    def __init__(self, assistant: RealtimeAssistant, system: str | None) -> None:
        self._assistant, self._system = assistant, system
        self._turns = [] if system is None else [Turn(role="system", text=system)]
        self._socket: RealtimeSocket | None = None
        self._beta = assistant.options.names == "beta"
        self._running: str | None = None  # the response's id; "" before it is known
        self._cancelled = False

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The history so far, the system's turn first if there is one."""
        return tuple(self._turns)

    def stream(
        self, question: Question, options: ReplyOptions | None = None, **changes: Any
    ) -> Iterator[ReplyEvent]:
        """Answer, event by event. Closing the iterator cancels the reply.

        Raises:
            AudioError: the sound cannot be used.
            InputError: another reply of this conversation is running, or the question is none.
            EngineError: the server is not there, refuses, fails, or is silent for too long.
        """
        if self._running is not None:
            raise InputError("a conversation gives one reply at a time; cancel the running one")
        chosen, turn = ReplyOptions.of(options, changes), _turn(question)
        self._cancelled = False
        return self._answer(turn, chosen)

    def reply(
        self, question: Question, options: ReplyOptions | None = None, **changes: Any
    ) -> Reply:
        """Answer, all at once."""
        return _last(self.stream(question, options, **changes))

    def cancel(self) -> None:
        """Stop the running reply; may be called from another thread."""
        self._cancelled = True
        if self._running and self._socket is not None:
            self._socket.send("response.cancel", response_id=self._running)

    def replace(self, turns: Sequence[Turn]) -> None:
        """Take these turns for the history; their words are told to a new session.

        Raises:
            InputError: a reply is running.
        """
        if self._running is not None:
            raise InputError("a conversation gives one reply at a time; cancel the running one")
        self._turns = list(turns)
        self.close()

    def close(self) -> None:
        """End the session."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _answer(self, turn: Turn, options: ReplyOptions) -> Iterator[ReplyEvent]:
        self._running = ""
        ended = False
        try:
            socket = self._connect(speech=options.speech)
            incoming = IncomingReply(self._assistant.clock, self._ask(socket, turn, options))
            while not ended:
                event = socket.receive()
                kind = todays(event)
                if kind == "response.created":
                    self._running = str(event.get("response", {}).get("id", ""))
                    if self._cancelled:  # before there was anything to cancel
                        self.cancel()
                elif kind == "error":
                    self._refused(event.get("error"))
                elif kind == "response.done":
                    reply = incoming.done(event.get("response", {}))
                    ended = True
                    self._keep(turn, reply)
                    yield ReplyDone(reply=reply)
                elif (made := incoming.take(kind, event)) is not None:
                    yield made
        finally:
            self._running = None
            if not ended:  # what is still to come would be taken for the next reply
                self.close()

    def _refused(self, error: Any) -> None:
        code = error.get("code") if isinstance(error, dict) else None
        if not (self._cancelled and code == "response_cancel_not_active"):
            raise EngineError(f"the server refused: {reason_of(error)}")

    def _keep(self, turn: Turn, reply: Reply) -> None:
        self._turns.append(turn)
        if reply.text:
            self._turns.append(Turn(role="assistant", text=reply.text))
        self._running = None  # whoever sees the reply may ask again at once

    def _ask(self, socket: RealtimeSocket, turn: Turn, options: ReplyOptions) -> float:
        """Send a question; return when its end was sent."""
        clock = self._assistant.clock
        if turn.audio is None:
            assert turn.text is not None, "a turn has one of both"
            item = message_of("user", turn.text, beta=self._beta)
            socket.send("conversation.item.create", item=item)
        else:
            self._say(socket, turn.audio)
        began = clock()
        if turn.audio is not None:
            socket.send("input_audio_buffer.commit")
        wanted = response_of(beta=self._beta, speech=options.speech)
        if options.temperature > 0:
            wanted["temperature"] = options.temperature
        socket.send("response.create", response=wanted)
        return began

    def _say(self, socket: RealtimeSocket, sound: Audio) -> None:
        samples = audio.resample(sound, audio.SAMPLE_RATE, RATE)
        piece = round(_PIECE_S * RATE)
        clock, began = self._assistant.clock, self._assistant.clock()
        for first in range(0, len(samples), piece):
            data = audio.pcm16_encode(samples[first : first + piece])
            if self._assistant.options.pace == "real":  # a piece is sent when it has been spoken
                end = began + min(first + piece, len(samples)) / RATE
                self._assistant.sleep(max(0.0, end - clock()))
            socket.send("input_audio_buffer.append", audio=base64.b64encode(data).decode())

    def _connect(self, *, speech: bool) -> RealtimeSocket:
        """Return the session's socket, a new one where there is none."""
        if self._socket is not None:
            return self._socket
        options = self._assistant.options
        socket = self._socket = RealtimeSocket(options)
        created = socket.until("session.created")
        session = created.get("session")
        if options.names == "auto":
            self._beta = isinstance(session, dict) and is_beta(session)
        wanted = session_of(
            beta=self._beta, speech=speech, voice=options.voice, instructions=self._system
        )
        socket.send("session.update", session=wanted)
        socket.until("session.updated")
        for turn in self._turns:  # of a session before
            if turn.role != "system":
                text = turn.text if turn.text is not None else "(spoken)"
                item = message_of(turn.role, text, beta=self._beta)
                socket.send("conversation.item.create", item=item)
        return socket


def _turn(question: Question) -> Turn:
    """Turn a file, an array at 16 kHz, or a turn into the user's turn."""
    if isinstance(question, np.ndarray):
        return Turn(role="user", audio=audio.check(question, max_s=float("inf")))
    if not isinstance(question, Turn):
        return Turn(role="user", audio=audio.load(question))
    if question.role != "user":
        raise InputError(f"a question must be the user's turn, got {question.role!r}")
    return question


def _last(events: Iterator[ReplyEvent]) -> Reply:
    for event in events:
        if isinstance(event, ReplyDone):
            return event.reply
    raise AssertionError("a reply ends in ReplyDone")
