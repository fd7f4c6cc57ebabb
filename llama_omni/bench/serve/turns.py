"""One turn of one client: what came of a question, and when."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from llama_omni.bench.serve.playback import PlaybackClock

Outcome = Literal["answered", "silent", "refused", "failed", "unanswered"]

SAMPLE_BYTES = 2  # of 16 bit PCM
RATE = 24_000  # Hz: of the API's PCM
REFUSALS = ("overloaded", "too_many_responses", "too_many_sessions")  # codes of `error`


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """What came of one question. All times are in seconds from its true end."""

    client: int
    outcome: Outcome
    detail: str = ""  # why there is no answer
    stopped_s: float | None = None  # the end of the turn became known to the client
    first_audio_s: float | None = None
    last_audio_s: float | None = None
    pieces: int = 0
    late: int = 0
    stall_s: float = 0.0
    sound_s: float = 0.0
    early: int = 0  # replies begun before the question's end, and given up by the server

    def row(self) -> dict[str, Any]:
        """Return what a JSON file holds."""
        return asdict(self)


@dataclass(kw_only=True, slots=True)
class TurnWatch:
    """Reads the server's events of one turn, as a client sees them.

    A reply that began before the question's end is no answer to it: the server took a pause inside
    for the end, and interrupts itself when the voice goes on.
    """

    client: int
    speech_end_s: float  # the clock's reading at the question's true end
    playback: PlaybackClock = field(default_factory=PlaybackClock)
    outcome: Outcome | None = None  # None: it goes on
    detail: str = ""
    _stopped_s: float | None = None
    _response: str | None = None
    _last_s: float | None = None
    _early: int = 0

    def see(self, event: dict[str, Any], now: float) -> None:
        """Take the server's next event, which came now."""
        if self.outcome is not None:
            return
        match event["type"]:
            case "input_audio_buffer.speech_stopped":
                self._stopped_s = now
            case "response.created":
                if now < self.speech_end_s:
                    self._early += 1
                else:
                    self._response = event["response"]["id"]
            case "response.output_audio.delta" if event["response_id"] == self._response:
                seconds = decoded_bytes(event["delta"]) / SAMPLE_BYTES / RATE
                self.sound(now, seconds)
            case "response.done" if event["response"]["id"] == self._response:
                self._done(event["response"])
            case "error":
                self._error(event["error"])

    @property
    def last_s(self) -> float:
        """The clock's reading when something came last, or was due to."""
        return self.speech_end_s if self._last_s is None else self._last_s

    def stopped(self, now: float) -> None:
        """Note that the end of the turn became known now."""
        self._stopped_s = now

    def sound(self, now: float, lasts_s: float) -> None:
        """Take a piece of the answer."""
        self.playback.arrive(now, lasts_s)
        self._last_s = now

    def end(self, outcome: Outcome | None = None, detail: str = "") -> None:
        """Let the turn be over; without an outcome, by what was heard."""
        if self.outcome is None:
            self.outcome = outcome or ("answered" if self.playback.pieces else "silent")
            self.detail = detail

    def turn(self) -> Turn:
        """Return what came of it."""
        played = self.playback

        def since(time: float | None) -> float | None:
            return None if time is None else time - self.speech_end_s

        return Turn(
            client=self.client,
            outcome=self.outcome or "unanswered",
            detail=self.detail,
            stopped_s=since(self._stopped_s),
            first_audio_s=since(played.first_s),
            last_audio_s=since(self._last_s),
            pieces=played.pieces,
            late=played.late,
            stall_s=played.stall_s,
            sound_s=played.sound_s,
            early=self._early,
        )

    def _done(self, response: dict[str, Any]) -> None:
        if response["status"] in ("completed", "incomplete"):
            self.end()
            return
        details = response.get("status_details") or {}
        error = details.get("error") or {}
        code = error.get("code") or details.get("reason") or response["status"]
        self.end("refused" if code in REFUSALS else "failed", code)

    def _error(self, error: dict[str, Any]) -> None:
        code = error.get("code") or error["type"]
        self.end("refused" if code in REFUSALS else "failed", code)


def decoded_bytes(text: str) -> int:
    """Return how many bytes base64 text stands for."""
    return len(text) * 3 // 4 - text.count("=", len(text) - 2)
