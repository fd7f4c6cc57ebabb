"""The page in a real Chromium, against a scripted server: what is said, heard, shown and sent."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr

pytest.importorskip("fastapi")
import uvicorn

from tests.serve.fake_realtime import ANSWER, QUESTION, FakeRealtime, answer_sound
from tests.serve.page_tools import (
    EXAMPLE,
    likeness,
    microphone,
    page_of,
    played,
    wait_for,
)

pytestmark = pytest.mark.slow


@contextmanager
def serving(fake: FakeRealtime, port: int = 0) -> Iterator[str]:
    """Run the fake server in a thread; give its address."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        config = uvicorn.Config(
            fake.app, log_level="warning", ws="websockets-sansio", timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)


def sent(fake: FakeRealtime, kind: str) -> list[dict[str, Any]]:
    return [event for event in fake.received if event["type"] == kind]


def test_spoken_question_is_heard_and_answer_sounds_as_sent(tmp_path: Path) -> None:
    fake = FakeRealtime()
    with serving(fake) as address:
        with page_of(address, microphone(tmp_path / "mic.wav", 1.5, EXAMPLE, 20)) as page:
            page.click("#talk")
            for phase in ("listening", "hearing", "thinking", "speaking", "listening"):
                wait_for(page, phase)
            assert page.inner_text("#transcript .user .words") == QUESTION
            assert page.inner_text("#transcript .assistant .words") == ANSWER
            assert "first sound after" in page.inner_text("#transcript .assistant .facts")
            sound = played(page)
    assert likeness(sound, answer_sound()) > 0.99  # whole, in order, without a gap
    samples, rate = soundfile.read(EXAMPLE, dtype="float32")
    heard = np.frombuffer(bytes(fake.heard), "<i2").astype(np.float32) / 32768
    assert likeness(heard, soxr.resample(samples, rate, 24_000)) > 0.9
    sizes = {len(event["audio"]) for event in sent(fake, "input_audio_buffer.append")}
    assert sizes == {6400}  # 4,800 bytes in base64


def test_voice_interrupts_and_tells_what_was_heard(tmp_path: Path) -> None:
    fake = FakeRealtime(seconds=8)
    with serving(fake) as address:
        with page_of(
            address, microphone(tmp_path / "mic.wav", 1.5, EXAMPLE, 3, EXAMPLE, 20)
        ) as page:
            page.click("#talk")
            wait_for(page, "speaking")
            started = time.monotonic()
            wait_for(page, "hearing")
            spoken_ms = 1000 * (time.monotonic() - started)
            page.wait_for_selector("#transcript .assistant s")
            wait_for(page, "speaking")
            page.wait_for_selector("#transcript .assistant:nth-child(4)")
    (event,) = sent(fake, "conversation.item.truncate")
    assert 0 < event["audio_end_ms"] == pytest.approx(spoken_ms, abs=500)
    assert sent(fake, "response.cancel") == []  # the server's own doing


def test_button_and_key_interrupt() -> None:
    fake = FakeRealtime(seconds=8)
    with serving(fake) as address, page_of(address) as page:
        for number, stop in enumerate(("#interrupt", "Escape"), 1):
            page.fill("#question", "Tell me a long story.")
            page.press("#question", "Enter")
            wait_for(page, "speaking")
            page.wait_for_timeout(600)
            page.click(stop) if stop.startswith("#") else page.keyboard.press(stop)
            wait_for(page, "ready")
            assert len(sent(fake, "response.cancel")) == number
        page.wait_for_timeout(300)
        before = page.evaluate("window.recorded.length")
        page.wait_for_timeout(700)
        late = page.evaluate(f"Math.max(...window.recorded.slice({before}).map(Math.abs))")
    assert late == 0  # nothing stale is played
    for event in sent(fake, "conversation.item.truncate"):
        assert 200 < event["audio_end_ms"] < 2000


def test_recorded_example_needs_no_microphone() -> None:
    fake = FakeRealtime()
    with serving(fake) as address, page_of(address, allowed=False) as page:
        page.click("#example")
        wait_for(page, "speaking")
        wait_for(page, "ready")
        assert "recorded example" in page.inner_text("#transcript .user .facts")
    samples, rate = soundfile.read(EXAMPLE, dtype="float32")
    heard = np.frombuffer(bytes(fake.heard), "<i2").astype(np.float32) / 32768
    assert likeness(heard, soxr.resample(samples, rate, 24_000)) > 0.99


def test_push_to_talk_with_the_space_bar(tmp_path: Path) -> None:
    fake = FakeRealtime()
    with serving(fake) as address:
        with page_of(
            address, microphone(tmp_path / "mic.wav", 0.2, EXAMPLE, 1, EXAMPLE, 20)
        ) as page:
            page.click("#open-settings")
            page.check("input[value=push]", force=True)
            page.click("#close-settings")
            page.locator("#talk").focus()
            page.keyboard.down(" ")
            wait_for(page, "hearing")
            page.wait_for_timeout(2000)
            page.keyboard.up(" ")
            wait_for(page, "speaking")
            assert page.inner_text("#transcript .user .words") == QUESTION
    assert len(sent(fake, "input_audio_buffer.commit")) == 1
    assert len(sent(fake, "response.create")) == 1
    assert sent(fake, "session.update")[-1]["session"]["audio"]["input"]["turn_detection"] is None


def test_refused_microphone_is_said_and_typing_goes_on() -> None:
    fake = FakeRealtime(seconds=1)
    with serving(fake) as address, page_of(address, allowed=False) as page:
        page.click("#talk")
        page.wait_for_selector("#trouble:has-text('microphone')")
        page.fill("#question", "Hello?")
        page.click("#composer [type=submit]")
        wait_for(page, "speaking")
        assert page.inner_text("#trouble") == ""


def test_page_comes_back_when_the_server_does() -> None:
    fake = FakeRealtime(seconds=1)
    with serving(fake) as address, page_of(address) as page:
        page.fill("#question", "Hello?")
        page.press("#question", "Enter")
        wait_for(page, "speaking")
        wait_for(page, "ready")
        fake.drop()
        wait_for(page, "waiting")
        assert "Trying again" in page.inner_text("#trouble")
        wait_for(page, "ready")
        assert "begins anew" in page.inner_text("#transcript .line")


def test_wrong_key_is_said_and_the_right_one_works() -> None:
    fake = FakeRealtime(key="a-key-of-the-server", seconds=1)
    with serving(fake) as address, page_of(address) as page:
        page.fill("#question", "Hello?")
        page.press("#question", "Enter")
        page.wait_for_selector("#trouble:has-text('API key')")
        page.click("#open-settings")
        page.fill("#key", "a-key-of-the-server")
        page.click("#close-settings")
        page.fill("#question", "Hello again?")
        page.press("#question", "Enter")
        wait_for(page, "speaking")
        assert "a-key" not in page.evaluate("JSON.stringify(localStorage)")


def test_second_question_cancels_the_first_and_is_answered() -> None:
    fake = FakeRealtime(seconds=1)
    with serving(fake) as address, page_of(address) as page:
        page.evaluate(
            """for (const text of ["One?", "Two?"]) {
              document.getElementById("question").value = text;
              document.getElementById("composer").requestSubmit();
            }"""
        )
        wait_for(page, "speaking")
        wait_for(page, "ready")
        assert page.inner_text("#transcript .assistant:last-child .words") == ANSWER
    kinds = [event["type"] for event in fake.received if event["type"].startswith("response.")]
    assert kinds == ["response.create", "response.cancel", "response.create"]
