"""Many questions to the chat endpoint at once: order, bounds, and a server that dies."""

import subprocess
import sys
import threading
import time

import pytest

from llama_omni.backends.chat_options import ChatReply
from llama_omni.errors import ToolError
from tests.backends.chat_tools import ROOT, endpoint, user
from tests.stub_server import StubServer, words_of


def test_ask_many_keeps_order_and_bounds():
    taken = []

    def questions():
        for index in range(40):
            taken.append(index)
            yield user(str(index))

    with StubServer(delay_s=0.02) as server:
        with endpoint(server, concurrency=5, look_ahead=10) as chat:
            for done, outcome in enumerate(chat.ask_many(questions())):
                assert outcome.text == f"You said {words_of(str(done))}."
                assert len(taken) <= done + 1 + 10
    assert server.calls == 40
    assert 2 <= server.most_busy <= 5  # how many meet depends on the machine


def test_concurrency_holds_over_several_callers():
    with StubServer(delay_s=0.02) as server, endpoint(server, concurrency=3) as chat:
        callers = [
            threading.Thread(
                target=lambda base: list(chat.ask_many(user(f"{base} {i}") for i in range(8))),
                args=(base,),
            )
            for base in range(3)
        ]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    assert server.calls == 24
    assert 2 <= server.most_busy <= 3


def test_leaving_the_iterator_stops_what_has_not_begun():
    with StubServer(delay_s=0.05) as server:
        with endpoint(server, concurrency=2, look_ahead=20) as chat:
            outcomes = chat.ask_many(user(str(index)) for index in range(100))
            next(outcomes)
            outcomes.close()
    assert server.calls <= 6


def test_server_that_dies_in_the_midst_ends_the_work_soon_and_loses_nothing(tmp_path):
    cache = tmp_path / "cache.sqlite"
    command = [sys.executable, "-m", "tests.stub_server", "normal"]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        questions = [user(str(index)) for index in range(60)]
        with endpoint(url, concurrency=4, cache=cache, backoff_s=0.1) as chat:
            work = chat.ask_many(questions)
            outcomes = [next(work) for _ in range(12)]
            server.kill()
            begun = time.monotonic()
            with pytest.raises(ToolError, match="must answer"):
                outcomes.extend(work)
            assert time.monotonic() - begun < 5
            paid = chat.usage.replies
    finally:
        server.kill()
        server.communicate()
    assert 12 <= len(outcomes) <= paid < 60
    with StubServer() as again, endpoint(again, cache=cache) as chat:
        assert all(isinstance(outcome, ChatReply) for outcome in chat.ask_many(questions))
        assert chat.usage.cached == paid
    assert again.calls == 60 - paid
