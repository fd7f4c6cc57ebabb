import sys
import time
import types

import numpy as np
import pytest

from llama_omni.cli_view import Player
from llama_omni.errors import MissingExtraError, OutputError


class FakeSpeakers(types.ModuleType):
    """Stands for the package sounddevice."""

    class PortAudioError(Exception):
        pass

    def __init__(self, fail=None):
        super().__init__("sounddevice")
        self.heard, self.opened, self.fail = [], [], fail

    def query_devices(self, kind):
        if self.fail == "device":
            raise self.PortAudioError("Error querying device -1")

    def OutputStream(self, **options):
        self.opened.append(options)
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def write(self, samples):
        if self.fail == "write":
            raise self.PortAudioError("Device unavailable")
        self.heard.append(samples)


@pytest.fixture
def speakers(monkeypatch):
    fake = FakeSpeakers()
    monkeypatch.setitem(sys.modules, "sounddevice", fake)
    return fake


def test_play_gives_each_piece_to_the_speakers(run, assistant, speakers, question):
    code, _, err = run("ask", question, "--play")
    assert (code, err) == (0, "")
    assert speakers.opened == [{"samplerate": 16000, "channels": 1, "dtype": "float32"}]
    assert [len(piece) for piece in speakers.heard] == [1600, 1600]


def test_play_does_not_hold_up_the_reply(speakers, monkeypatch):
    monkeypatch.setattr(speakers, "write", lambda samples: time.sleep(0.25))
    player = Player()
    start = time.monotonic()
    for _ in range(3):
        player.play(np.zeros(16, np.float32), 16000)
    queued = time.monotonic() - start
    player.finish()
    assert queued < 0.25
    assert time.monotonic() - start >= 0.75


def test_play_without_a_device_is_told_before_the_reply(run, assistant, speakers, question):
    speakers.fail = "device"
    code, _, err = run("ask", question, "--play")
    assert code == 2
    assert err == (
        "llama-omni: error: --play must have a sound device, got: Error querying device -1\n"
    )
    assert not assistant.asked


def test_a_device_that_fails_later_does_not_lose_the_file(
    run, assistant, speakers, question, tmp_path
):
    speakers.fail = "write"
    code, _, err = run("ask", question, "--play", "-o", tmp_path / "answer.wav")
    assert code == 2
    assert "--play must have a sound device, got: Device unavailable" in err
    assert (tmp_path / "answer.wav").exists()


@pytest.mark.parametrize(
    ("failure", "error", "message"),
    [
        (ImportError("no"), MissingExtraError, r"pip install 'llama-omni\[play\]'"),
        (OSError("PortAudio library not found"), OutputError, "PortAudio library not found"),
    ],
)
def test_play_names_what_is_missing(monkeypatch, failure, error, message):
    def fail(name):
        raise failure

    monkeypatch.setattr("importlib.import_module", fail)
    with pytest.raises(error, match=message):
        Player()
