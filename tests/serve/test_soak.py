"""The soak: its visitors keep the protocol busy, its ledger and its verdict miss nothing."""

import asyncio
import json
from random import Random

import numpy as np
import pytest
from fake_engine import FakeEngine
from serve_tools import SPEECH, run, serving, settled
from turn_tools import levels

from benchmarks.serve_soak import NAME, main
from llama_omni.bench.soak.ledger import Ledger, Told
from llama_omni.bench.soak.settings import SoakSettings
from llama_omni.bench.soak.verdict import CHANCE, EMPTY, judge
from llama_omni.bench.soak.visitor import RATE, Visitor
from llama_omni.errors import ConfigError

MIB = 2**20


def test_visitors_leave_nothing_behind():
    ledger, spoken = Ledger(), [levels((800, SPEECH), rate=RATE)]

    async def soak():
        engine = FakeEngine(words=10, pace_s=0.005)
        async with serving(engine) as running:
            tasks = len(asyncio.all_tasks())

            async def seat(number):
                random = Random(number)
                for _ in range(3):
                    await Visitor(
                        running.ws,
                        ledger,
                        random,
                        written=["one", "two"],
                        spoken=spoken,
                        patience_s=60.0,
                    ).run()

            await asyncio.gather(*(seat(number) for number in range(4)))
            await settled(lambda: not engine.open)
            await settled(lambda: len(asyncio.all_tasks()) <= tasks)
            assert running.number("llama_omni_tasks") == len(asyncio.all_tasks())

    run(soak(), 240.0)
    assert ledger.broken == []
    assert set(ledger.errors) <= CHANCE
    assert ledger.sessions.total() == 12
    assert set(ledger.sessions) == {"clean", "abrupt"}
    assert {"completed", "cancelled"} <= set(ledger.statuses)
    assert {"spoken", "written", "beside", "barge in"} <= set(ledger.done)


def frame(kind, **fields):
    return json.dumps({"type": kind, "event_id": "event_1", **fields}).encode()


def response(status):
    return {"id": "resp_1", "object": "realtime.response", "status": status, "output": []}


DELTA = frame(
    "response.output_audio_transcript.delta",
    response_id="resp_1",
    item_id="item_1",
    output_index=0,
    content_index=0,
    delta="a",
)
CREATED = frame("response.created", response=response("in_progress"))
DONE = frame("response.done", response=response("completed"))


@pytest.mark.parametrize(
    ("frames", "broken"),
    [
        pytest.param([CREATED, DELTA, DONE], [], id="as it should be"),
        pytest.param([CREATED, DONE, DELTA], ["after its response.done"], id="late delta"),
        pytest.param([DELTA], ["of no response"], id="early delta"),
        pytest.param([CREATED, DONE, DONE], ["response.done twice"], id="done twice"),
        pytest.param([CREATED, CREATED], ["created twice"], id="created twice"),
        pytest.param([b'{"type": "response.made"}'], ["no event"], id="unknown event"),
        pytest.param([b"{"], ["no event"], id="no JSON"),
        pytest.param(
            [frame("input_audio_buffer.cleared", more=1)],
            ["unknown fields more"],
            id="unknown field",
        ),
    ],
)
def test_ledger_sees_every_broken_rule(frames, broken):
    ledger = Ledger()
    told = Told(ledger)
    for one in frames:
        told.see(one)
    assert len(ledger.broken) == ledger.num_broken == len(broken)
    assert all(part in rule for part, rule in zip(broken, ledger.broken, strict=True))


def soaked(*, engine_grows=0, caches_grow=0, tasks=5, fds=20, cache=0, broken=0, errors=(), code=0):
    """What a soak of ten minutes would have seen."""

    def sample(at_s, grown=0, cached=0, **gauges):
        held = {"rss": 100 * MIB, "threads": 9, "fds": 20}
        gauges = {"engine_cache_bytes": int(cached * MIB), **gauges}
        return {
            "at_s": at_s,
            "server": held,
            "engine": held | {"rss": int((400 + grown + cached) * MIB)},
            "tasks": 5,
            **dict.fromkeys(EMPTY, 0),
            **gauges,
        }

    after = sample(601, tasks=tasks, engine_cache_bytes=cache)
    after["server"] = after["server"] | {"fds": fds}
    return {
        "samples": [
            sample(at, engine_grows * at / 600, caches_grow * at / 600)
            for at in np.arange(0.5, 600, 5).tolist()
        ],
        "empty_before": sample(0),
        "empty_after": after,
        "seen": {
            "num_broken": broken,
            "frames": 10,
            "responses": {"completed": 1},
            "errors": dict.fromkeys(errors, 1),
            "log_errors": [],
            "exit_code": code,
        },
    }


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        pytest.param({}, None, id="nothing"),
        pytest.param({"engine_grows": 20, "errors": ["item_not_found"]}, None, id="a little"),
        pytest.param({"engine_grows": 40}, "engine's rss beside its caches grow", id="memory"),
        pytest.param({"caches_grow": 300}, None, id="more who talk"),
        pytest.param({"tasks": 6}, "no task", id="task"),
        pytest.param({"fds": 21}, "server has no more files", id="file"),
        pytest.param({"cache": 1}, "nothing is held", id="cache"),
        pytest.param({"broken": 1}, "every frame", id="frame"),
        pytest.param({"errors": ["engine_failed"]}, "no response fails", id="failure"),
        pytest.param({"code": 1}, "ends well", id="exit code"),
    ],
)
def test_verdict_names_the_rule_that_did_not_hold(changes, rule, tmp_path):
    rules = judge(SoakSettings(output=tmp_path / "soak"), soaked(**changes))
    found = [one["rule"] for one in rules if one["held"] is False]
    assert len(found) == (rule is not None)
    assert all(rule in one for one in found)


def test_short_soak_does_not_judge_memory(tmp_path):
    settings = SoakSettings(output=tmp_path / "soak", seconds=60.0)
    rules = judge(settings, soaked(engine_grows=300))
    assert [one["held"] for one in rules if "grow" in one["rule"]] == [None] * 4


def test_impossible_soak_is_refused(tmp_path, capsys):
    with pytest.raises(ConfigError, match=r"soak\.visitors must be above 0, got 0"):
        SoakSettings(output=tmp_path / "soak", visitors=0)
    assert main(["--seconds", "0", "-o", str(tmp_path)]) == 2
    assert "soak.seconds must be above 0" in capsys.readouterr().err


@pytest.mark.slow
def test_real_server_is_soaked_for_20_seconds(tmp_path, capsys):
    assert main(["--seconds", "20", "--visitors", "3", "-o", str(tmp_path)]) == 0
    assert "BROKEN" not in capsys.readouterr().out
    result = json.loads((tmp_path / f"{NAME}.json").read_text())
    assert sum(result["seen"]["sessions"].values()) >= 3
    assert result["seen"]["frames"] > 20
    page = (tmp_path / f"{NAME}.md").read_text()
    assert "# A soak of the server" in page
    assert str(tmp_path) not in page
