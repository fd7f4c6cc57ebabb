"""The chat endpoint against a server that is slow, limited, broken, refusing, or gone."""

import json
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from llama_omni.backends.chat import ChatEndpoint
from llama_omni.backends.chat_json import find_json, misfit
from llama_omni.backends.chat_options import ChatFailure, ChatOptions, ChatReply
from llama_omni.backends.chat_request import Pace
from llama_omni.errors import ConfigError, MissingExtraError, OutputError, ToolError
from tests.stub_server import StubServer, words_of

ROOT = Path(__file__).parents[2]
SCHEMA = {
    "type": "object",
    "properties": {"question": {"type": "string"}},
    "required": ["question"],
    "additionalProperties": False,
}


def user(text):
    return [{"role": "user", "content": text}]


def endpoint(server, **changes):
    url = server if isinstance(server, str) else server.base_url
    given = {"model": "stub", "backoff_s": 0.02, "tries": 4, "timeout_s": 10.0, **changes}
    return ChatEndpoint(ChatOptions(base_url=url, **given))


def ask(server, schema=None, **changes):
    with endpoint(server, **changes) as chat:
        return chat.ask(user("hello"), schema), chat.usage


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


# Servers in trouble


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


# Many


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
    assert server.most_busy == 5


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
    assert server.most_busy == 3


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


# The cache


@pytest.mark.parametrize("schema", [None, SCHEMA], ids=["text", "schema"])
@pytest.mark.parametrize("plan", [["normal"], ["malformed"], ["refusing"], ["no-schema"]], ids=str)
def test_rerun_asks_the_server_nothing(schema, plan, tmp_path):
    questions = [user(str(index)) for index in range(10)]
    changes = {"cache": tmp_path / "deep" / "cache.sqlite", "input_price": 1e6}
    with StubServer(*plan) as server, endpoint(server, **changes) as chat:
        first = list(chat.ask_many(questions, schema))
        paid = chat.usage
    with StubServer("broken") as server, endpoint(server, **changes) as chat:
        second = list(chat.ask_many(questions, schema))
        usage = chat.usage
    assert server.calls == 0
    assert [getattr(one, "text", None) for one in first] == [
        getattr(one, "text", None) for one in second
    ]
    assert all(outcome.cached for outcome in second)
    assert not any(outcome.cached for outcome in first)
    assert (usage.replies, usage.cost) == (0, 0.0)
    assert (usage.cached, usage.saved) == (paid.replies, paid.cost)
    assert paid.cost > 0


@pytest.mark.parametrize(
    "change",
    [{"model": "other"}, {"seed": 1}, {"temperature": 0.1}, {"max_tokens": 9}, {"extra": {"k": 1}}],
    ids=str,
)
def test_other_request_is_not_taken_from_the_cache(change, tmp_path):
    cache = tmp_path / "cache.sqlite"
    with StubServer() as server:
        ask(server, cache=cache)
        ask(server, cache=cache)
        ask(server, SCHEMA, cache=cache)
        ask(server, cache=cache, **change)
    assert server.calls == 3


def test_same_question_at_the_same_time_is_paid_once(tmp_path):
    with StubServer(delay_s=0.1) as server:
        with endpoint(server, cache=tmp_path / "cache.sqlite") as chat:
            outcomes = list(chat.ask_many([user("same")] * 8))
            assert (chat.usage.replies, chat.usage.cached) == (1, 7)
            assert chat._under_way == {}
    assert len({outcome.text for outcome in outcomes}) == 1
    assert server.calls == 1


WORKER = """
import sys
from pathlib import Path
from llama_omni.backends.chat import ChatEndpoint
from llama_omni.backends.chat_json import find_json, misfit
from llama_omni.backends.chat_options import ChatOptions
options = ChatOptions(base_url=sys.argv[1], model="stub", cache=Path(sys.argv[2]), concurrency=4)
questions = ([{"role": "user", "content": str(index)}] for index in range(int(sys.argv[3])))
with ChatEndpoint(options) as chat:
    for outcome in chat.ask_many(questions):
        print(outcome.text, flush=True)
"""


def worker(server, cache, count):
    command = [sys.executable, "-c", WORKER, server.base_url, str(cache), str(count)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_killed_process_leaves_a_cache_that_the_rerun_uses(tmp_path):
    cache = tmp_path / "cache.sqlite"
    with StubServer(delay_s=0.02) as server:
        for kept in (3, 17, 40):  # killed again and again, always further on
            process = worker(server, cache, 80)
            for _ in range(kept):
                process.stdout.readline()
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
        killed = server.calls
        with endpoint(server, cache=cache) as chat:
            outcomes = list(chat.ask_many(user(str(index)) for index in range(80)))
            cached = chat.usage.cached
    assert [outcome.text for outcome in outcomes] == [
        f"You said {words_of(str(index))}." for index in range(80)
    ]
    assert cached >= 40
    assert server.calls - killed == 80 - cached
    assert killed - cached <= 3 * 4  # what was under way at each kill
    with StubServer("broken") as server, endpoint(server, cache=cache) as chat:
        assert all(outcome.cached for outcome in chat.ask_many(user(str(i)) for i in range(80)))


def test_processes_share_a_cache(tmp_path):
    cache = tmp_path / "cache.sqlite"
    with StubServer(delay_s=0.01) as server:
        processes = [worker(server, cache, 30) for _ in range(3)]
        printed = [process.communicate()[0] for process in processes]
        assert [process.returncode for process in processes] == [0, 0, 0]
        calls = server.calls
        with endpoint(server, cache=cache) as chat:
            assert len(list(chat.ask_many(user(str(index)) for index in range(30)))) == 30
    assert len(set(printed)) == 1
    assert 30 <= calls <= 90
    assert server.calls == calls


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


def test_options_read_as_json_sort_alike():
    from llama_omni.backends.chat_cache import content_key

    assert content_key({"a": 1, "b": [2]}) == content_key(json.loads('{"b": [2], "a": 1}'))


@pytest.mark.parametrize("found", ["text", "folder", "newer"])
def test_cache_that_is_something_else_is_refused(found, tmp_path):
    path = tmp_path / "cache.sqlite"
    if found == "text":
        path.write_text("not a database, but long enough to be taken for a header of one" * 20)
    elif found == "folder":
        path.mkdir()
    else:
        with closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA user_version = 9")
    with pytest.raises(OutputError, match=r"cache\.sqlite must be a reply cache"):
        endpoint("http://127.0.0.1:1/v1", cache=path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1}', {"a": 1}),
        ('Here: {"a": {"b": "}"}} ok?', {"a": {"b": "}"}}),
        ('```\n{"a": 1}\n```', {"a": 1}),
        ('{broken} {"a": 1}', {"a": 1}),
        ("[1, 2]", [1, 2]),
    ],
)
def test_find_json_reads(text, value):
    assert find_json(text) == value


@pytest.mark.parametrize("text", ["", "no", '{"a": 1', "{" * 5000, "[" * 100_000])
def test_find_json_refuses(text):
    with pytest.raises(ValueError, match="JSON"):
        find_json(text)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"n": 1, "l": ["a"]}, None),
        ({"n": True}, "the reply.n must be of type integer, got bool"),
        ({}, "the reply must have the field 'n', got []"),
        ({"n": 1, "x": 1}, "the reply must not have the field 'x'"),
        ({"n": 1, "l": ["c"]}, "the reply.l[0] must be one of ['a', 'b'], got 'c'"),
        ([], "the reply must be of type object, got list"),
    ],
)
def test_misfit_names_the_place(value, problem):
    items = {"type": "string", "enum": ["a", "b"]}
    properties = {"n": {"type": "integer"}, "l": {"type": "array", "items": items}}
    schema = {"type": "object", "properties": properties, "required": ["n"]}
    assert misfit(value, {**schema, "additionalProperties": False}) == problem
