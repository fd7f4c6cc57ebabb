"""The chat endpoint's cache: what is never paid twice, over kills and processes."""

import json
import os
import signal
import sqlite3
from contextlib import closing

import pytest

from llama_omni.errors import OutputError
from tests.backends.chat_tools import SCHEMA, ask, endpoint, user, worker
from tests.stub_server import StubServer, words_of


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


def test_killed_process_leaves_a_cache_that_the_rerun_uses(tmp_path):
    cache = tmp_path / "cache.sqlite"
    with StubServer(delay_s=0.02) as server:
        for kept in (3, 40):  # killed again and again, always further on
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
    assert killed - cached <= 2 * 4  # what was under way at each kill
    with StubServer("broken") as server, endpoint(server, cache=cache) as chat:
        assert all(outcome.cached for outcome in chat.ask_many(user(str(i)) for i in range(80)))


def test_processes_share_a_cache(tmp_path):
    cache = tmp_path / "cache.sqlite"
    with StubServer(delay_s=0.01) as server:
        processes = [worker(server, cache, 30) for _ in range(2)]
        printed = [process.communicate()[0] for process in processes]
        assert [process.returncode for process in processes] == [0, 0]
        calls = server.calls
        with endpoint(server, cache=cache) as chat:
            assert len(list(chat.ask_many(user(str(index)) for index in range(30)))) == 30
    assert len(set(printed)) == 1
    assert 30 <= calls <= 60
    assert server.calls == calls


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
