"""Runs: every item under every condition once, however often it is stopped."""

import json
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import llama_omni
from llama_omni.errors import ConfigError, EngineError, InputError
from llama_omni.evaluate.evaluated import read_evaluated
from llama_omni.evaluate.records import Condition, EvalItem, ReplyRow
from llama_omni.evaluate.results import file_names
from llama_omni.evaluate.run import RunSettings, choose
from llama_omni.evaluate.together import Together
from llama_omni.interfaces import ReplyOptions, Turn
from llama_omni.threads import ThreadedAssistant
from tests.evaluate.fake_system import CONDITIONS, Echo, ToneSet, evaluate

ROOT = Path(__file__).parents[2]
KEPT = ("report.md", "report.html", "scores.json", "items.jsonl", "run.json")


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_everything_is_asked_once_and_kept(tmp_path):
    echo = Echo()
    assert evaluate(tmp_path, echo) == 0
    assert echo.asked == 1 + 18  # one to warm up
    rows = lines(tmp_path / "replies.jsonl")
    assert len({(row["item"], row["condition"]) for row in rows}) == len(rows) == 18
    assert rows[0]["text"] == "It is 0."
    assert rows[0]["audio"] is None
    assert rows[-1]["units"] == [5, 7]
    found = read_evaluated(tmp_path)
    assert [condition.name for condition in found.conditions] == ["s2tif", "s2sif-10", "s2sif-inf"]
    assert found.score("accuracy_text", "s2tif").value == 100
    assert found.score("first_audio_ms", "s2sif-10").value == 250
    for row in found.rows.values():
        assert row.audio is None or (tmp_path / row.audio).is_file()
    assert (tmp_path / found.questions["q 0/"]).is_file()


def test_a_second_run_asks_nothing(tmp_path):
    evaluate(tmp_path, Echo())
    before = (tmp_path / "report.md").read_bytes()
    again = Echo()
    evaluate(tmp_path, again)
    assert again.asked == 0
    assert (tmp_path / "report.md").read_bytes() == before


def test_further_conditions_are_added(tmp_path):
    evaluate(tmp_path, Echo(), conditions=CONDITIONS[:1])
    more = Echo()
    evaluate(tmp_path, more, conditions=CONDITIONS[1:])
    assert more.asked == 13
    assert json.loads((tmp_path / "run.json").read_text())["conditions"] == [
        "s2tif", "s2sif-10", "s2sif-inf",
    ]  # fmt: skip


def test_another_system_or_set_is_refused_with_what_differs(tmp_path):
    evaluate(tmp_path, Echo())
    with pytest.raises(InputError, match=r"differs in set .*; choose another folder"):
        evaluate(tmp_path, Echo(), count=5)
    with pytest.raises(InputError, match=r"differs in batch \(1, now 2\)"):
        evaluate(tmp_path, Echo(), batch=2)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(InputError, match="got one with other files in it"):
        evaluate(tmp_path / "other", Echo())


def test_a_failed_reply_is_a_row_and_is_asked_again(tmp_path):
    assert evaluate(tmp_path, Echo(fails=[2])) == 3
    rows = lines(tmp_path / "replies.jsonl")
    assert [row["error"] for row in rows if row["item"] == "q 2/"] == ["tone 2 is too much"] * 3
    assert read_evaluated(tmp_path).score("failed_rate", "s2tif").value == pytest.approx(100 / 6)
    assert "no reply" in (tmp_path / "report.md").read_text()
    mended = Echo()
    assert evaluate(tmp_path, mended) == 0
    assert mended.asked == 1 + 3
    assert len(lines(tmp_path / "replies.jsonl")) == 18
    assert "None was found." in (tmp_path / "report.md").read_text()


def test_a_system_that_is_gone_ends_the_run_and_keeps_what_came(tmp_path):
    gone = Echo(fails=range(3, 20))
    with pytest.raises(EngineError, match=r"5 replies in a row failed.*run again to go on"):
        evaluate(tmp_path, gone, count=20)
    rows = lines(tmp_path / "replies.jsonl")
    assert [row["error"] is None for row in rows] == [True] * 3 + [False] * 5


@pytest.mark.parametrize("batch", [2, 5])
def test_several_at_a_time_give_the_same_report(tmp_path, batch):
    evaluate(tmp_path / "one", Echo())
    evaluate(tmp_path / "many", Echo(pause_s=0.01), batch=batch)
    reports = [(tmp_path / name / "report.md").read_text() for name in ("one", "many")]
    said = f"- Asked at a time: {batch}; times hold the wait for each other, so are no latencies\n"
    assert said in reports[1]
    assert reports[0] == reports[1].replace(said, "")


def test_killed_at_random_moments_the_report_is_the_same(tmp_path):
    evaluate(tmp_path / "whole", Echo())
    chance, killed = random.Random(0), 0
    command = [sys.executable, "-m", "tests.evaluate.fake_system", str(tmp_path / "killed")]
    replies = tmp_path / "killed" / "replies.jsonl"
    for _ in range(4):
        process = subprocess.Popen(command, cwd=ROOT)
        wanted = chance.randrange(1, 5) + (len(replies.read_bytes()) if replies.exists() else 0)
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if replies.exists() and len(replies.read_bytes()) >= wanted:
                break
            time.sleep(0.002)
        killed += process.poll() is None
        process.kill()
        process.wait()
    with replies.open("a") as file:
        file.write('{"item": "q 5/", "cond')  # killed in the writing
    subprocess.run(command, cwd=ROOT, check=True)
    assert killed >= 2
    for name in KEPT:
        assert (tmp_path / "killed" / name).read_bytes() == (
            tmp_path / "whole" / name
        ).read_bytes(), name


def test_an_engine_for_many_is_asked_from_threads():
    questions = {"What is the capital of France?": "Paris", "What is two plus two?": "four"}
    with Together(ThreadedAssistant(llama_omni.load())) as together:
        with ThreadPoolExecutor(2) as threads:
            turns = [Turn(role="user", text=text) for text in questions]
            replies = [*threads.map(lambda turn: together.ask(turn, ReplyOptions()), turns)]
    for reply, word in zip(replies, questions.values(), strict=True):
        assert word in reply.text
        assert reply.duration_s > 0.5


def test_file_names_are_safe_and_told_apart():
    ids = ["a", "a/b", "a b", "../x", "\u00e9"]
    names = file_names([EvalItem(id=name, instruction="") for name in ids])
    assert names["a"] == "a"
    assert len(set(names.values())) == 5
    assert all("/" not in name and not name.startswith(".") for name in names.values())


def test_what_cannot_be_asked_is_refused():
    with pytest.raises(InputError, match="s2sif-inf or s2sif-10, got 's2sif-0'"):
        Condition.of("s2sif-0")
    with pytest.raises(ConfigError, match="--batch must be at least 1"):
        RunSettings(conditions=CONDITIONS, batch=0)
    with pytest.raises(ConfigError, match="--limit must be at least 1"):
        choose(ToneSet(), 0)
    twice = ToneSet()
    twice.items = (*twice.items, twice.items[0])
    with pytest.raises(InputError, match="unique ids, got 'q 0/' twice"):
        choose(twice, None)
    with pytest.raises(InputError, match=r"must hold 'condition'"):
        ReplyRow.from_json({"item": "a"})
