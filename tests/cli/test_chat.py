"""`llama-omni chat`: its refusals, and itself with the embedded model."""

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llama_omni import cli_chat
from llama_omni.errors import OutputError
from tests.cli.shared import COMMAND
from tests.terminal.terminal_tools import FakeMicrophone, FakeSpeakers

ROOT = Path(__file__).parents[2]
PATIENCE_S = 300.0  # a process that loads torch, on a busy machine
TYPED = [*COMMAND, "chat", "--no-microphone", "--no-speakers"]


@pytest.fixture
def begun(monkeypatch):
    """What a talk would begin with."""
    kept = []

    async def chat(how, options, sound, **more):
        kept.append((how, options, sound, more))

    monkeypatch.setattr(cli_chat, "_chat", chat)
    return kept


@pytest.fixture
def devices(monkeypatch):
    """Devices that are there, unless `failure` is set."""

    class FakeDevices:
        failure, asked = None, []

        def __init__(self):
            if self.failure is not None:
                raise self.failure

        def microphone(self, name):
            self.asked.append(("microphone", name))
            return FakeMicrophone()

        def speakers(self, name):
            self.asked.append(("speakers", name))
            return FakeSpeakers()

        def listing(self):
            return "> 0 Built-in"

    FakeDevices.asked = []
    monkeypatch.setattr(cli_chat, "Devices", FakeDevices)
    return FakeDevices


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_talk_uses_the_devices_that_are_there(run, begun, devices, monkeypatch):
    monkeypatch.setattr(sys, "stdin", Terminal())
    code, _, err = run("chat", "--output-device", "USB", "--seed", "3", "--no-speculate")
    assert (code, err) == (0, "")
    how, options, sound, more = begun[0]
    assert how["model"] is None
    assert (options.seed, options.chunk_size) == (3, 10)
    assert isinstance(sound.microphone, FakeMicrophone)
    assert isinstance(sound.speakers, FakeSpeakers)
    assert more == {"speculate": False, "half_duplex": False}
    assert devices.asked == [("microphone", None), ("speakers", "USB")]


def test_lines_of_a_pipe_are_not_listened_beside(run, begun, devices, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert run("chat")[0] == 0
    assert begun[0][2].microphone is None
    assert run("chat", "--microphone")[0] == 0
    assert begun[1][2].microphone is not None


def test_absent_devices_are_done_without_and_told(run, begun, devices, monkeypatch):
    monkeypatch.setattr(sys, "stdin", Terminal())
    devices.failure = OutputError("PortAudio library not found")
    code, _, err = run("chat")
    assert code == 0
    assert err.splitlines() == [
        "llama-omni: no microphone, type your questions; no speakers, read the answers: "
        "PortAudio library not found"
    ]
    assert (begun[0][2].microphone, begun[0][2].speakers) == (None, None)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--microphone"],
        ["--speakers"],
        ["--input-device", "USB"],
        ["--output-device", "USB"],
        ["--list-devices"],
    ],
)
def test_devices_that_were_asked_for_must_be_there(run, begun, devices, arguments):
    devices.failure = OutputError("PortAudio library not found")
    code, _, err = run("chat", *arguments)
    assert code == 2
    assert err.endswith("llama-omni: error: PortAudio library not found\n")
    assert not begun


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--no-microphone", "--input-device", "0"], "leave out --input-device"),
        (["--no-speakers", "--output-device", "0"], "leave out --output-device"),
        (["--preset", "huge"], "--preset must be"),
        (["--chunk-size", "0"], "chunk_size must be at least 1"),
    ],
)
def test_talk_that_cannot_be_is_refused(run, begun, devices, arguments, message):
    code, _, err = run("chat", *arguments)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not begun


def test_devices_are_listed(run, begun, devices):
    assert run("chat", "--list-devices") == (0, "> 0 Built-in\n", "")
    assert not begun


@pytest.mark.parametrize(
    ("packages", "arguments"),
    [("_SESSION", ["--no-microphone"]), ("_VOICE", ["--microphone"])],
)
def test_extra_that_is_missing_is_named(run, begun, devices, monkeypatch, packages, arguments):
    monkeypatch.setattr(cli_chat, packages, ("no_such_package",))
    code, _, err = run("chat", *arguments)
    assert code == 2
    assert "pip install 'llama-omni[serve]'" in err


def test_lines_of_a_pipe_are_answered_in_order():
    asked = "What is the capital of France?\n\nWhat is the capital of France?\n"
    done = subprocess.run(
        TYPED, input=asked, capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "The capital of France is Paris.\n" * 2
    remarks = done.stderr.splitlines()
    assert len(remarks) == 2
    assert all(line.startswith("(first word after ") for line in remarks)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_leaves_without_a_trace():
    process = subprocess.Popen(
        TYPED,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("What is the capital of France?\n")
        process.stdin.flush()
        assert process.stdout.readline() == "The capital of France is Paris.\n"
        os.killpg(process.pid, signal.SIGINT)
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.communicate()
