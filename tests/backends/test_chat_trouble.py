"""The chat endpoint against a server that is slow, limited, broken, or gone."""

import pytest

from llama_omni.backends.chat_options import ChatReply
from llama_omni.backends.chat_request import Pace
from llama_omni.errors import ToolError
from tests.backends.chat_tools import ask, endpoint, user
from tests.stub_server import StubServer


@pytest.mark.parametrize("behaviour", ["broken", "busy", "dropping", "page"])
def test_trouble_that_passes_is_waited_out(behaviour):
    with StubServer(behaviour, behaviour, "normal", retry_after="0.05") as server:
        outcome, usage = ask(server)
    assert isinstance(outcome, ChatReply)
    assert (usage.retries, usage.replies) == (2, 1)


def test_slow_reply_is_asked_again():
    with StubServer("slow", "normal") as server:
        outcome, usage = ask(server, timeout_s=0.2)
    assert isinstance(outcome, ChatReply)
    assert usage.retries == 1


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [("broken", "out of memory"), ("dropping", "peer closed"), ("page", "no chat completion")],
)
def test_trouble_that_stays_says_what_was_asked_and_where(behaviour, words, tmp_path):
    with StubServer(behaviour) as server, pytest.raises(ToolError) as caught:
        ask(server, cache=tmp_path / "cache.sqlite")
    text = str(caught.value)
    assert f"{server.base_url}/chat/completions must answer model 'stub'" in text
    assert words in text
    assert "after 4 tries" in text
    assert "asked: 'hello'" in text
    assert "cache.sqlite" in text
    assert server.calls == 4


def test_absent_server_is_an_error():
    with StubServer() as server:
        url = server.base_url
    with pytest.raises(ToolError, match=r"Connection refused.*after 4 tries"):
        ask(url)


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [("broke", "no money left"), ("locked", "variable SOME_KEY"), ("absent", "model must exist")],
)
def test_hopeless_request_is_not_tried_again(behaviour, words, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "secret-key")
    with StubServer(behaviour) as server, pytest.raises(ToolError, match=words) as caught:
        ask(server, api_key_env="SOME_KEY")
    assert server.calls == 1
    assert "secret-key" not in str(caught.value)


def test_retry_after_is_honoured_by_all_threads():
    with StubServer("limited", "normal", retry_after="0.5") as server:
        with endpoint(server, concurrency=4, backoff_s=0.0) as chat:
            chat.ask(user("first"))
            assert len(list(chat.ask_many(user(str(index)) for index in range(4)))) == 4
            assert chat.usage.retries == 1
    assert server.times[1] - server.times[0] >= 0.5


def test_rate_limits_do_not_use_up_the_tries():
    with StubServer(*["limited"] * 8, "normal", retry_after="0.01") as server:
        outcome, usage = ask(server, tries=2)
    assert isinstance(outcome, ChatReply)
    assert usage.retries == 8


def test_rate_limit_without_a_time_backs_off():
    with StubServer("limited", "limited", "limited", "normal", retry_after=None) as server:
        ask(server, backoff_s=0.1)
    first, second, third = (server.times[i + 1] - server.times[i] for i in range(3))
    assert first >= 0.1
    assert second >= 0.2
    assert third >= 0.4


def test_rate_limit_beyond_patience_is_an_error():
    with StubServer("limited", retry_after="3600") as server:
        with pytest.raises(ToolError, match=r"slow down.*asks for 3600 s more"):
            ask(server, patience_s=5.0)
    assert server.calls == 1


def test_requests_per_minute_are_spaced():
    with StubServer() as server, endpoint(server, requests_per_minute=600.0) as chat:
        list(chat.ask_many(user(str(index)) for index in range(6)))
    assert server.times[-1] - server.times[0] > 0.25  # the exact spacing: see the next test


def test_pace_spaces_and_pauses_by_its_clock():
    now = [100.0]
    pace = Pace(60.0, clock=lambda: now[0])
    assert [pace.reserve() for _ in range(3)] == [0.0, 1.0, 2.0]
    pace.pause(10.0)
    assert pace.reserve() == 10.0
    now[0] = 200.0
    assert pace.reserve() == 0.0
