"""The session with a real turn detector: sound in, responses out, as a server joins them."""

import base64

import numpy as np
import pytest
from session_tools import Driver, done, names, only
from turn_tools import LevelVad, levels

from llama_omni.serve.actions import (
    Abandon,
    ClearAudio,
    CommitAudio,
    Finished,
    Listen,
    Prepare,
    StartReply,
    Tune,
)
from llama_omni.serve.turns import TurnDetector

SPEECH, SILENCE = 0.9, 0.0


class Server(Driver):
    """A driver whose detector is the real one, told what the session asks."""

    def __init__(self):
        self.detector = None
        super().__init__()

    def do(self, actions):
        sent = []
        for action in actions:
            sent += super().do([action]) if not isinstance(action, CommitAudio) else []
            events = []
            match action:
                case Tune() if self.detector is None:
                    self.detector = TurnDetector(action.settings, LevelVad())
                case Tune():
                    events = self.detector.update(action.settings)
                case Listen():
                    events = self.detector.feed(action.samples)
                case CommitAudio():
                    self.actions.append(action)
                    events = [self.detector.commit()]
                case ClearAudio():
                    self.detector.clear()
                case StartReply():
                    self.detector.disarm_idle()
                case Finished() if not action.out_of_band:
                    self.detector.arm_idle(action.audio_ms)
            for event in events:
                sent += self.do(self.session.turn(event))
        return sent

    def hear(self, *parts, step_ms=100, rate=24_000):
        """Append sound of (ms, level) pairs, a piece at a time."""
        sound = np.rint(levels(*parts, rate=rate) * 32_767).astype("<i2").tobytes()
        step = 2 * rate * step_ms // 1000
        sent = []
        for first in range(0, len(sound), step):
            piece = base64.b64encode(sound[first : first + step]).decode()
            sent += self.send("input_audio_buffer.append", audio=piece)
        return sent


@pytest.mark.parametrize("step_ms", [20, 100, 730])
def test_prepared_reply_is_asked_what_the_turn_asks(step_ms):
    server = Server()
    sent = server.hear((400, SILENCE), (800, SPEECH), (1_000, SILENCE), step_ms=step_ms)
    assert names(sent) == [
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
        "response.created",
        "rate_limits.updated",
    ]
    prepared, start = server.last(Prepare), server.last(StartReply)
    assert start.prepared
    assert start.generation == prepared.generation
    np.testing.assert_array_equal(prepared.request.turns[-1].audio, start.request.turns[-1].audio)
    assert server.count(Abandon) == 0


def test_pause_within_a_turn_drops_what_was_prepared():
    server = Server()
    sent = server.hear(
        (400, SILENCE), (800, SPEECH), (300, SILENCE), (800, SPEECH), (1_000, SILENCE)
    )
    assert names(sent).count("response.created") == 1
    assert server.count(Prepare) == 2
    assert server.count(Abandon) == 1
    assert server.last(StartReply).prepared


def test_barge_in_then_second_turn():
    server = Server()
    server.hear((400, SILENCE), (800, SPEECH), (700, SILENCE))
    sent = server.hear((300, SPEECH))
    assert only(sent, "response.done")["response"]["status_details"]["reason"] == "turn_detected"
    sent = server.hear((300, SPEECH), (700, SILENCE))
    assert "response.created" in names(sent)
    assert server.reply(done())[-1]["response"]["status"] == "completed"


def test_push_to_talk_asks_all_of_what_was_said():
    server = Server()
    server.update(audio={"input": {"turn_detection": None}})
    assert server.hear((200, SILENCE), (600, SPEECH), (200, SILENCE)) == []
    sent = server.send("input_audio_buffer.commit")
    assert only(sent, "input_audio_buffer.committed")
    server.send("response.create")
    assert len(server.last(StartReply).request.turns[-1].audio) == 16_000
    error = only(server.send("input_audio_buffer.commit"), "error")["error"]
    assert error["code"] == "input_audio_buffer_commit_empty"


def test_idle_timeout_runs_from_the_end_of_the_sound():
    server = Server()
    detection = {"type": "server_vad", "idle_timeout_ms": 2_000}
    server.update(audio={"input": {"turn_detection": detection}})
    server.ask()
    server.send("response.create")
    server.answer(ms=1_000)
    assert server.hear((2_900, SILENCE)) == []
    sent = server.hear((200, SILENCE))
    assert names(sent)[0] == "input_audio_buffer.timeout_triggered"
    assert "response.created" in names(sent)


def test_input_may_change_its_format():
    server = Server()
    server.hear((500, SILENCE))
    server.update(audio={"input": {"format": {"type": "audio/pcmu"}}})
    speech = base64.b64encode(bytes([0x80]) * 8_000).decode()  # the loudest code
    silence = base64.b64encode(bytes([0xFF]) * 8_000).decode()
    sent = server.send("input_audio_buffer.append", audio=speech)
    sent += server.send("input_audio_buffer.append", audio=silence)
    assert "response.created" in names(sent)
    assert sent[0]["audio_start_ms"] == pytest.approx(500 - 300, abs=64)
