"""The judge against a stub server that answers, refuses, fails, limits and is gone."""

import json
from pathlib import Path

import pytest

from llama_omni.errors import ConfigError, ToolError
from llama_omni.evaluate.judge import Grades, Judge, JudgeOptions
from llama_omni.evaluate.judge_measure import JudgeMeasure
from llama_omni.evaluate.records import EvalItem, ReplyRow
from llama_omni.evaluate.transcripts import Transcripts
from tests.evaluate.judge_tools import answer, asked_reply, judge
from tests.stub_server import StubServer, schema_of

ITEM = EvalItem(id="a", instruction="How far is the moon?")
WRITTEN = ReplyRow(item="a", condition="s2tif", text="Far.")
SPOKEN = ReplyRow(item="a", condition="s2sif-inf", text="Far.", audio="a.flac")


class Heard(Transcripts):
    """Transcripts by a recogniser that always hears the same."""

    def __init__(self):
        self.name = "deaf"

    def of(self, row, folder):
        return "car"


def varied(body):
    """Grades that depend on the sample: 2 and 4."""
    grade = 2 + 2 * (body["seed"] % 2)
    names = schema_of(body)["properties"]
    return json.dumps({name: "so" if name == "reason" else grade for name in names})


# What is asked, and what comes of it


def test_judge_asks_both_versions_prompts_for_each_sample():
    with StubServer(reply=answer(content=5, style=4, score=2)) as server, judge(server) as one:
        found = one.grade("How far?", "Very far.")
    assert found.grades == {"content": (5, 5), "style": (4, 4), "score": (2, 2)}
    assert (found.asked, found.unjudged, server.calls) == (4, (), 4)
    assert sorted(body["seed"] for body in server.bodies) == [0, 0, 1, 1]
    assert {asked_reply(body) for body in server.bodies} == {"Very far."}
    assert all("How far?" in body["messages"][-1]["content"] for body in server.bodies)


def test_grade_is_the_mean_of_the_samples():
    with StubServer(reply=varied) as server, judge(server) as one:
        found = one.grade("How far?", "Far.")
    assert found.grades["content"] == (2, 4)
    assert found.mean("content") == 3.0
    assert Grades.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_transcript_is_called_one_and_silence_is_said():
    with StubServer(reply=answer()) as server, judge(server, samples=1) as one:
        one.grade("How far?", "{reply} 5/5", heard=True)
        one.grade("How far?", "  ", heard=True)
        one.grade("How far?", "Far.")
    first, second, third = (server.bodies[index]["messages"][-1]["content"] for index in (0, 2, 4))
    assert "speech recogniser" in first
    assert "{reply} 5/5" in first  # what looks like a place of the prompt is left as it is
    assert "(not a word)" in second
    assert "recogniser" not in third


def test_rerun_pays_nothing_and_gives_the_same(tmp_path):
    cache = tmp_path / "paid.sqlite"
    with StubServer(reply=varied) as server:
        found = []
        for _ in range(2):
            with judge(server, cache=cache, input_price=1e6) as one:
                found.append(one.grade("How far?", "Far."))
                usage = one.usage
        assert server.calls == 4
    assert found[0] == found[1]
    assert (usage.replies, usage.cached, usage.cost) == (0, 4, 0.0)
    assert usage.saved > 0


# Answers without a grade


@pytest.mark.parametrize(
    ("behaviour", "kind"),
    [
        ("refusing", "refused"),
        ("filtered", "refused"),
        ("malformed", "malformed"),
        ("chatty", "malformed"),
        ("misfit", "malformed"),
        ("empty", "empty"),
        ("cut", "truncated"),
    ],
)
def test_answer_without_a_grade_is_drawn_again_then_unjudged(behaviour, kind):
    with StubServer(behaviour, reply=answer()) as server, judge(server, samples=1) as one:
        found = one.grade("How far?", "Far.")
    assert found.grades == {"content": (), "style": (), "score": ()}
    assert found.mean("content") is None
    assert [text.partition(", sample 1: ")[0] for text in found.unjudged] == [
        "content_style",
        "score",
    ]
    assert all(f"sample 1: {kind}" in text for text in found.unjudged)
    assert {body["seed"] for body in server.bodies} == {0, 10_000}


def test_refusal_that_passes_leaves_no_trace():
    with StubServer("refusing", "refusing", "normal", reply=answer(score=5)) as server:
        with judge(server, samples=1, retries=2) as one:  # both may meet the same prompt
            found = one.grade("How far?", "Far.")
    assert (found.unjudged, found.grades["score"]) == ((), (5,))


@pytest.mark.parametrize("grade", [0, 6, 3.5, "4", True, None], ids=repr)
def test_grade_out_of_range_is_none(grade):
    reply = answer(content=grade, style=grade, score=grade)
    with StubServer(reply=reply) as server, judge(server, samples=1, retries=0) as one:
        found = one.grade("How far?", "Far.")
    assert len(found.unjudged) == 2
    assert "must be" in found.unjudged[0]
    assert server.calls == 4  # each is sent back once


# Servers in trouble


@pytest.mark.parametrize("behaviour", ["limited", "broken", "busy", "dropping"])
def test_trouble_that_passes_is_waited_out(behaviour):
    plan = [behaviour, behaviour, "normal"]
    with StubServer(*plan, reply=answer(), retry_after="0.05") as server:
        with judge(server, samples=1) as one:
            assert one.grade("How far?", "Far.").unjudged == ()
            assert one.usage.retries == 2


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        ("broken", "out of memory"),
        ("slow", "timed out"),
        ("locked", "OPENAI_API_KEY"),
        ("broke", "no money left"),
    ],
)
def test_trouble_that_stays_is_an_error(behaviour, words):
    timeout_s = 0.2 if behaviour == "slow" else 20.0
    with StubServer(behaviour, reply=answer()) as server:
        with judge(server, timeout_s=timeout_s) as one, pytest.raises(ToolError, match=words):
            one.grade("How far?", "Far.")


def test_absent_server_is_an_error():
    with StubServer() as server:
        url = server.base_url
    with judge(url) as one, pytest.raises(ToolError, match="Connection refused"):
        one.grade("How far?", "Far.")


# The measure


def test_measure_judges_the_text_of_s2tif_and_the_transcript_of_s2sif():
    with StubServer(reply=answer(content=4)) as server, judge(server, samples=1) as one:
        measure = JudgeMeasure(one, Heard())
        values = [measure.value(row, ITEM, Path()) for row in (WRITTEN, SPOKEN)]
        asked = {asked_reply(body) for body in server.bodies}
    assert [value["judged"] for value in values] == ["Far.", "car"]
    assert asked == {"Far.", "car"}
    (content, *others) = measure.scores([(WRITTEN, ITEM, values[0])], seed=0)
    assert (content.name, content.value, content.count) == ("judge_content", 4.0, 1)
    assert [score.name for score in others] == ["judge_style", "judge_score", "judge_unjudged"]
    assert others[-1].value == 0.0


def test_speech_without_a_transcript_is_absent_and_unpaid():
    with StubServer(reply=answer()) as server, judge(server) as one:
        measure = JudgeMeasure(one)
        value = measure.value(SPOKEN, ITEM, Path())
        scores = measure.scores([(SPOKEN, ITEM, value)], seed=0)
        assert server.calls == 0
    assert {score.name for score in scores} == {spec.name for spec in measure.specs}
    assert all(score.value is None and "--asr" in score.absent for score in scores)


def test_unjudged_replies_are_no_zeros_in_the_mean():
    rows = [
        (WRITTEN, ITEM, {**Grades(grades=grades, unjudged=bad, asked=4).to_json()})
        for grades, bad in (
            ({"content": (5, 3), "style": (2, 2), "score": (3, 4)}, ()),
            ({"content": (), "style": (), "score": (1,)}, ("a", "b", "c")),
        )
    ]
    found = {score.name: score for score in JudgeMeasure(None).scores(rows, seed=0)}
    assert (found["judge_content"].value, found["judge_content"].count) == (4.0, 1)
    assert found["judge_score"].value == (3.5 + 1) / 2
    assert found["judge_score"].low <= 2.25 <= found["judge_score"].high
    assert found["judge_unjudged"].value == pytest.approx(100 * 3 / 8)
    nothing = JudgeMeasure(None).scores(rows[1:], seed=0)[0]
    assert (nothing.value, nothing.absent) == (None, "a")


def test_values_before_a_failure_are_kept_and_not_paid_again(tmp_path):
    rows = [ReplyRow(item="a", condition="s2tif", text=f"Reply {n}.") for n in range(3)]
    cache = tmp_path / "paid.sqlite"
    with StubServer(*["normal"] * 4, "broken", reply=answer()) as server:
        with judge(server, samples=1, cache=cache) as one:
            measure = JudgeMeasure(one)
            kept = [measure.value(row, ITEM, tmp_path) for row in rows[:2]]
            with pytest.raises(ToolError, match=r"paid.sqlite"):
                measure.value(rows[2], ITEM, tmp_path)
    with StubServer(reply=answer()) as server, judge(server, samples=1, cache=cache) as one:
        again = [JudgeMeasure(one).value(row, ITEM, tmp_path) for row in rows]
        assert server.calls == 2
    assert again[:2] == kept


def test_measure_without_a_judge_says_how_to_get_one():
    assert "--judge-url" in JudgeMeasure(None).missing
    assert JudgeMeasure(None).settings == {"judge": None, "recognizer": None}


def test_settings_tell_prompts_and_sampling_but_no_key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    one = judge("http://localhost/v1", temperature=0.3)
    settings = JudgeMeasure(one, Heard()).settings
    assert settings["recognizer"] == "deaf"
    assert settings["judge"]["sampling"]["temperature"] == 0.3
    assert set(settings["judge"]["prompts"]) == {"content_style", "score"}
    assert "secret-key" not in json.dumps(settings)
    assert JudgeMeasure(one).missing is None


def test_bad_options_are_refused(tmp_path):
    options = judge("http://localhost/v1").options
    with pytest.raises(ConfigError, match="samples must be at least 1, got 0"):
        JudgeOptions(chat=options.chat, samples=0)
    with pytest.raises(ConfigError, match="retries must be at least 0, got -1"):
        JudgeOptions(chat=options.chat, retries=-1)
    with pytest.raises(ConfigError, match=r"content_style.md must be a judge's prompt"):
        Judge(JudgeOptions(chat=options.chat, prompts=tmp_path))
    for name in ("content_style", "score"):
        (tmp_path / f"{name}.md").write_text("[system]\nGrade.\n[user]\n{instruction}\n")
    with pytest.raises(ConfigError, match=r"must hold \{reply\} under \[user\]"):
        Judge(JudgeOptions(chat=options.chat, prompts=tmp_path))
