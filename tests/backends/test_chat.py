"""The chat endpoint: what it sends, what it returns, and which replies one record pays for."""

import pickle
import sys
from pathlib import Path

import pytest

from llama_omni.backends.chat_options import ChatFailure, ChatOptions, ChatReply
from llama_omni.errors import ConfigError, MissingExtraError, ToolError
from tests.backends.chat_tools import SCHEMA, ask, endpoint, user
from tests.stub_server import StubServer, words_of

# What works


def test_ask_returns_text_and_tokens():
    with StubServer() as server:
        outcome, usage = ask(server)
    assert outcome == ChatReply(
        text=f"You said {words_of('hello')}.", input_tokens=1, output_tokens=6
    )
    assert (usage.replies, usage.input_tokens, usage.output_tokens) == (1, 1, 6)


def test_ask_sends_what_the_options_say(monkeypatch):
    monkeypatch.setenv("SOME_KEY", "secret-key")
    with StubServer() as server:
        changes = {"temperature": None, "top_p": 0.9, "max_tokens": 7, "seed": 3}
        ask(server, api_key_env="SOME_KEY", extra={"top_k": 5}, **changes)
    (body,) = server.bodies
    messages = [{"role": "user", "content": "hello"}]
    sampling = {"top_p": 0.9, "max_tokens": 7, "seed": 3, "top_k": 5}
    assert body == {"model": "stub", "messages": messages, **sampling}
    assert server.keys == ["Bearer secret-key"]


def test_ask_with_schema_returns_a_value():
    with StubServer() as server:
        outcome, _ = ask(server, SCHEMA)
    assert outcome.value == {"question": f"So, {words_of('helloquestion')}?"}
    assert server.bodies[0]["response_format"]["json_schema"]["schema"] == SCHEMA


def test_cost_is_tokens_times_prices():
    with StubServer() as server:
        _, usage = ask(server, input_price=2e6, output_price=0.5e6)
    assert usage.cost == pytest.approx(1 * 2 + 6 * 0.5)
    assert "1 replies, 0 from the cache" in str(usage)
    assert "$5.0000" in str(usage)


def test_tokens_that_the_server_does_not_tell_are_counted_as_unknown():
    with StubServer("uncounted") as server:
        _, usage = ask(server)
    assert (usage.uncounted, usage.input_tokens) == (1, 0)
    assert "without a token count" in str(usage)


def test_token_counts_that_are_text_are_read_and_others_unknown():
    with StubServer("worded") as server:
        _, usage = ask(server)
    assert (usage.replies, usage.input_tokens, usage.output_tokens) == (1, 10, 0)
    with StubServer("listed") as server:
        _, usage = ask(server)
    assert (usage.replies, usage.uncounted, usage.input_tokens) == (1, 1, 0)


# Failures that one record pays for


@pytest.mark.parametrize(
    ("behaviour", "kind", "calls"),
    [
        ("refusing", "refused", 1),
        ("filtered", "refused", 1),
        ("empty", "empty", 1),
        ("cut", "truncated", 1),
        ("malformed", "malformed", 2),
        ("chatty", "malformed", 2),
        ("misfit", "malformed", 2),
        ("too-long", "rejected", 2),
    ],
)
def test_reply_that_cannot_be_used_is_an_outcome(behaviour, kind, calls):
    with StubServer(behaviour) as server:
        outcome, _ = ask(server, SCHEMA)
    assert isinstance(outcome, ChatFailure)
    assert outcome.kind == kind
    assert outcome.reason.startswith(kind)
    assert server.calls == calls


@pytest.mark.parametrize("behaviour", ["malformed", "chatty", "misfit"])
def test_malformed_reply_is_repaired_once(behaviour):
    with StubServer(behaviour, "normal") as server:
        outcome, usage = ask(server, SCHEMA)
    assert isinstance(outcome, ChatReply)
    first, second = server.bodies
    assert second["messages"][: len(first["messages"])] == first["messages"]
    assert [message["role"] for message in second["messages"][-2:]] == ["assistant", "user"]
    assert outcome.input_tokens == usage.input_tokens
    assert usage.replies == 2


def test_json_is_found_within_other_words():
    with StubServer("fenced") as server:
        outcome, usage = ask(server, SCHEMA)
    assert isinstance(outcome, ChatReply)
    assert usage.replies == 1


def test_server_without_schemas_is_asked_in_words_and_remembered():
    with StubServer("no-schema") as server, endpoint(server) as chat:
        assert isinstance(chat.ask(user("one"), SCHEMA), ChatReply)
        assert isinstance(chat.ask(user("two"), SCHEMA), ChatReply)
    assert ["response_format" in body for body in server.bodies] == [True, False, False]


def test_samples_are_replies_of_their_own(tmp_path):
    with StubServer(reply=lambda body: f"seed {body['seed']}") as server:
        with endpoint(server, seed=7, cache=tmp_path / "paid.sqlite") as chat:
            texts = [chat.ask(user("hello"), sample=sample).text for sample in (0, 2, 0, 2)]
    assert texts == ["seed 7", "seed 9", "seed 7", "seed 9"]
    assert server.calls == 2


def test_server_that_refuses_everything_is_an_error():
    with StubServer("too-long") as server, endpoint(server, extra={"odd": 1}) as chat:
        kinds = [chat.ask(user(str(index))).kind for index in range(4)]
        with pytest.raises(ToolError, match=r"each of the first 5 requests; .*max_tokens, .*odd"):
            chat.ask(user("5"))
    assert kinds == ["rejected"] * 4


def test_server_that_refuses_some_is_no_error():
    with StubServer("normal", "too-long") as server, endpoint(server) as chat:
        outcomes = list(chat.ask_many(user(str(index)) for index in range(8)))
    assert sum(isinstance(outcome, ChatFailure) for outcome in outcomes) == 7


# Use


def test_endpoint_pickles_as_its_options():
    with StubServer() as server, endpoint(server) as chat:
        with pickle.loads(pickle.dumps(chat)) as copy:
            assert copy.options == chat.options
            assert isinstance(copy.ask(user("hello")), ChatReply)


def test_messages_must_end_with_the_user():
    with StubServer() as server, endpoint(server) as chat:
        for messages in ([], [{"role": "assistant", "content": "hello"}]):
            with pytest.raises(ConfigError, match="end with the user's"):
                chat.ask(messages)
    assert server.calls == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"base_url": "localhost:8000"}, "must begin with http"),
        ({"model": ""}, "model must be"),
        ({"concurrency": 0}, "concurrency must be at least 1, got 0"),
        ({"tries": 0}, "tries must be at least 1, got 0"),
        ({"max_tokens": 0}, "max_tokens must be at least 1, got 0"),
        ({"timeout_s": 0.0}, "timeout_s must be above 0"),
        ({"backoff_s": -1.0}, "backoff_s must be at least 0"),
        ({"requests_per_minute": 0.0}, "requests_per_minute must be above 0"),
        ({"extra": {"path": Path("x")}}, "extra must be plain JSON"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_impossible_options_are_refused(change, words):
    given = {"base_url": "http://127.0.0.1:1/v1", "model": "stub", **change}
    with pytest.raises(ConfigError, match=words):
        ChatOptions(**given)


def test_absent_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(MissingExtraError, match=r"llama-omni\[data\]"):
        endpoint("http://127.0.0.1:1/v1")
