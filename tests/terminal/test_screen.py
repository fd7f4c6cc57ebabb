"""What a talk writes, and the lines that it reads."""

import asyncio
import io
import os

import pytest

from llama_omni.terminal.lines import read_lines
from llama_omni.terminal.screen import Screen


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_answers_and_remarks_go_their_own_ways():
    out, err = io.StringIO(), io.StringIO()
    screen = Screen(out, err)
    screen.state("thinking")
    for word in ("Hello", " world\x1b[2J"):
        screen.words(word)
    screen.end_words()
    screen.end_words()
    screen.remark("fast\r")
    screen.close()
    assert out.getvalue() == "Hello world\ufffd[2J\n"
    assert err.getvalue() == "(fast\ufffd)\n"


def test_state_comes_and_goes_on_a_terminal():
    terminal = Terminal()
    screen = Screen(terminal, terminal)
    for _ in range(3):
        screen.state("thinking")
    screen.words("Yes")
    screen.state("speaking")  # not into the words
    screen.end_words()
    screen.state("listening")
    screen.entered()
    screen.state("listening")
    screen.close()
    gone = "\r" + " " * 11 + "\r"
    assert terminal.getvalue() == (
        f"[thinking] {gone}Yes\n[listening] [listening] " + "\r" + " " * 12 + "\r"
    )


@pytest.mark.parametrize(
    ("pieces", "lines"),
    [
        pytest.param([b"one\ntwo\n"], ["one", "two"], id="lines"),
        pytest.param([b"one\r\n\r\ntwo"], ["one", "", "two"], id="no last end"),
        pytest.param([b"caf\xc3", b"\xa9\n\xff\n"], ["caf\u00e9", "\ufffd"], id="cut letters"),
        pytest.param([], [], id="nothing"),
    ],
)
def test_lines_come_from_a_pipe(pieces, lines):
    async def read():
        source, sink = os.pipe()
        with os.fdopen(source) as stream:
            reading = asyncio.create_task(collect(stream))
            for piece in pieces:
                os.write(sink, piece)
                await asyncio.sleep(0.02)
            os.close(sink)
            return await asyncio.wait_for(reading, 60)

    async def collect(stream):
        return [line async for line in read_lines(stream)]

    assert asyncio.run(read()) == lines
