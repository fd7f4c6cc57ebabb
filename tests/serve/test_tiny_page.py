"""The page in a real Chromium, against `llama-omni serve` with the embedded model."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")
from tests.serve.page_tools import microphone, page_of, played, wait_for
from tests.serve.session_tools import check_frame
from tests.serve.tiny_server import (
    FRANCE,
    MADRID,
    PARIS,
    placed,
    spoken,
)

pytestmark = pytest.mark.slow
SECONDS = 60.0  # for anything, on a busy machine
ANSWERS = "#transcript .assistant"
# The words that were not heard of an answer that was heard in part.
CUT_ANSWER = """() => [...document.querySelectorAll("#transcript .assistant s")]
  .find((words) => words.previousSibling?.textContent)?.textContent"""
WHOLE_MS = 60_000  # an answer plays once it is there: a busy machine makes no gaps in it


class Frames:
    """Every frame the page gets: kept, and checked with the openai package's types."""

    def __init__(self, page: Any) -> None:
        self.events: list[dict[str, Any]] = []
        self.asked: list[dict[str, Any]] = []
        page.on("websocket", self.follow)

    def follow(self, socket: Any) -> None:
        socket.on("framereceived", lambda frame: self.events.append(json.loads(frame)))
        socket.on("framesent", lambda frame: self.asked.append(json.loads(frame)))

    def check(self) -> None:
        assert self.events[0]["type"] == "session.created"
        for event in self.events:
            check_frame(event)
            assert event["type"] != "error", event

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == kind]

    def sent(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.asked if event["type"] == kind]

    def sound(self, item: str) -> np.ndarray:
        """Return one answer as the server sent it, at 24 kHz."""
        deltas = self.of("response.output_audio.delta")
        pieces = [base64.b64decode(one["delta"]) for one in deltas if one["item_id"] == item]
        return np.frombuffer(b"".join(pieces), "<i2").astype(np.float32) / 32_768

    def words(self, item: str) -> str:
        """Return one answer's words as the server sent them."""
        deltas = self.of("response.output_audio_transcript.delta")
        return "".join(one["delta"] for one in deltas if one["item_id"] == item)

    def answers(self) -> list[str]:
        """Return the ids of the answers' items, in order."""
        return [event["item"]["id"] for event in self.of("response.output_item.added")]


def test_spoken_questions_are_answered_and_the_second_needs_the_first(
    tiny_address: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    spain = spoken("What about Spain?", tmp_path / "spain.wav")
    sound = microphone(tmp_path / "microphone.wav", 1.5, FRANCE, 25, spain, 60)
    with page_of(tiny_address, sound, buffer_ms=WHOLE_MS) as page:
        frames = Frames(page)
        page.click("#talk")
        for number, answer in enumerate((PARIS, MADRID), 1):
            for phase in ("listening", "hearing", "speaking", "listening"):
                wait_for(page, phase, SECONDS)
            assert page.locator(ANSWERS).count() == number
            assert page.inner_text(f"{ANSWERS} .words >> nth=-1") == answer
            assert "first sound after" in page.inner_text(f"{ANSWERS} .facts >> nth=-1")
        heard = played(page)
    frames.check()
    for item in frames.answers():
        correlation, difference = placed(heard, frames.sound(item))
        record_property(item, f"correlation {correlation:.6f}, difference {difference:.2g}")
        assert correlation > 0.999  # the whole answer in one piece, in the server's own sound
        assert difference < 1e-3  # sample by sample: no gap, no loss
    assert [one["response"]["status"] for one in frames.of("response.done")] == ["completed"] * 2


def test_voice_interrupts_and_the_next_question_is_answered(
    tiny_address: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    count = spoken("Count from one to twenty.", tmp_path / "count.wav")
    # However long the machine takes to answer, one of these falls into the answer before it.
    pauses = (2.2, count, 4, count, 6, count, 9, count, 13, count, 60)
    sound = microphone(tmp_path / "microphone.wav", 1.5, count, *pauses)
    with page_of(tiny_address, sound, buffer_ms=WHOLE_MS) as page:
        frames = Frames(page)
        page.click("#talk")
        struck = page.wait_for_function(CUT_ANSWER, timeout=2000 * SECONDS).json_value()
        cut = next(one for one in frames.of("conversation.item.truncated") if one["audio_end_ms"])
        wait_for(page, "speaking", SECONDS)  # the next turn
        heard = played(page)
    frames.check()
    item, whole = cut["item_id"], frames.sound(cut["item_id"])
    said = frames.words(item)
    (kept,) = (
        event["item"]
        for event in frames.of("conversation.item.retrieved")
        if event["item"]["id"] == item
    )
    words = "".join(part["transcript"] for part in kept["content"])
    assert said.startswith("One, two, three")
    assert 0 < len(words) < len(said)
    assert said == words + struck
    until = 24 * cut["audio_end_ms"]
    assert 0 < until < len(whole)
    correlation, difference = placed(heard, whole[:until])
    record_property("heard", f"{until / 24:.0f} of {len(whole) / 24:.0f} ms: {words!r}")
    record_property("cut", f"correlation {correlation:.6f}, difference {difference:.2g}")
    assert correlation > 0.999  # what the page says was heard, was
    assert difference < 1e-3
    assert placed(heard, whole)[0] < 0.999  # and the rest was not


def test_button_interrupts_and_the_pages_policy_holds(tiny_address: str) -> None:
    with page_of(tiny_address, allowed=False, recording=False, buffer_ms=WHOLE_MS) as page:
        frames = Frames(page)
        page.fill("#question", "Count from one to twenty.")
        page.press("#question", "Enter")
        wait_for(page, "speaking", SECONDS)
        page.wait_for_timeout(800)
        page.click("#interrupt")
        page.wait_for_selector(f"{ANSWERS} s", timeout=1000 * SECONDS)
        wait_for(page, "ready", SECONDS)
        assert "interrupted" in page.inner_text(f"{ANSWERS} .facts")
        page.click("#example")  # the next turn
        page.wait_for_selector(f"{ANSWERS} >> nth=1", timeout=1000 * SECONDS)
        wait_for(page, "speaking", SECONDS)
        wait_for(page, "ready", SECONDS)
        assert page.inner_text("#trouble") == ""
    frames.check()
    (truncated,) = frames.of("conversation.item.truncated")
    assert 0 < truncated["audio_end_ms"] < len(frames.sound(frames.answers()[0])) / 24
