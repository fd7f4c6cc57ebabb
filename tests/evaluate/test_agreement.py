"""The check of a judge: its statistics, its verdict, its set, and the command."""

import json

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from llama_omni.cli_agreement import agreement_command, agreement_lines
from llama_omni.errors import InputError
from llama_omni.evaluate.agreement import (
    GradedPair,
    agreement,
    check_agreement,
    quadratic_kappa,
    read_pairs,
)
from llama_omni.evaluate.judge import ASPECTS, Grades
from tests.evaluate.judge_tools import answer, as_given, judge
from tests.stub_server import StubServer


def pair(name, grade, instruction="one"):
    return GradedPair(
        id=name, instruction=instruction, reply=name, content=grade, style=grade, score=grade
    )


def graded(*grades):
    return Grades(grades={"content": grades}, asked=max(len(grades), 1))


# The shipped set


def test_shipped_pairs_are_balanced():
    pairs = read_pairs()
    assert len(pairs) == 40
    for aspect in ("content", "style"):
        by_question = {}
        for one in pairs:
            by_question.setdefault(one.instruction, []).append(getattr(one, aspect))
        assert len(by_question) == 8
        assert all(sorted(grades) == [1, 2, 3, 4, 5] for grades in by_question.values())
    content, style = ([getattr(one, name) for one in pairs] for name in ("content", "style"))
    assert abs(np.corrcoef(content, style)[0, 1]) < 0.1
    assert {one.score for one in pairs} == {1, 2, 3, 4, 5}


def test_shipped_single_scores_follow_both_grades():
    """A reply that is no worse in both is no worse in all."""
    pairs = read_pairs()
    for one in pairs:
        for other in pairs:
            if one.content >= other.content and one.style >= other.style:
                assert one.score >= other.score, (one.id, other.id)


# Statistics, worked by hand


def test_agreement_of_a_case_worked_by_hand():
    pairs = [pair("a", 1), pair("b", 2), pair("c", 4), pair("d", 5, "two")]
    grades = {"a": graded(2, 2), "b": graded(1, 2), "c": graded(4, 5), "d": graded(5, 5)}
    found = agreement("content", pairs, grades)
    # Means 2, 1.5, 4.5, 5; rounded, halves up, 2, 2, 5, 5.
    assert (found.count, found.exact, found.within_one) == (4, 2 / 4, 1.0)
    assert found.order == 2 / 3  # of a-b (wrong), a-c, b-c; d answers something else
    assert found.bias == pytest.approx((1 - 0.5 + 0.5 + 0) / 4)
    assert found.spread == pytest.approx(0.25)
    assert found.spearman == pytest.approx(0.8)
    assert found.kendall == pytest.approx(4 / 6)
    # Squares 1, 0, 1, 0 have the mean 0.5; those of all 16 pairs 80 / 16.
    assert found.kappa == pytest.approx(1 - 0.5 / (80 / 16))


def test_quadratic_kappa_matches_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    first, second = np.random.default_rng(0).integers(1, 6, (2, 50)).astype(float)
    expected = metrics.cohen_kappa_score(first, second, weights="quadratic", labels=range(1, 6))
    assert quadratic_kappa(first, second) == pytest.approx(expected)


def test_ties_are_half_an_order():
    found = agreement("content", [pair("a", 1), pair("b", 2)], {"a": graded(3), "b": graded(3)})
    assert (found.order, found.spearman, found.kendall) == (0.5, None, None)


def test_aspect_without_grades_is_weak():
    found = agreement("content", [pair("a", 1)], {"a": graded()})
    assert (found.count, found.exact) == (0, None)
    assert "kappa unknown" in found.weak


# Judges


def test_judge_that_grades_as_given_is_not_weak():
    with StubServer(reply=as_given()) as server, judge(server, samples=1) as one:
        report = check_agreement(one)
    assert [(found.exact, found.order, found.kappa) for found in report.aspects] == [(1, 1, 1)] * 3
    assert [found.spearman for found in report.aspects] == pytest.approx([1.0] * 3)
    assert (report.weak, report.worst(), report.unjudged) == ([], [], 0.0)
    assert server.calls == 80


def test_judge_that_turns_style_around_is_seen():
    def turned(aspect, grade):
        return 6 - grade if aspect == "style" else grade

    with StubServer(reply=as_given(turned)) as server, judge(server, samples=1) as one:
        report = check_agreement(one)
    assert [text.partition(":")[0] for text in report.weak] == ["style"]
    worst = report.worst(3)
    assert [(aspect, abs(grade - shown.style)) for shown, aspect, grade in worst] == [
        ("style", 4)
    ] * 3
    text = "\n".join(agreement_lines(report))
    assert "WEAK JUDGE: style: kappa -1.00 is below 0.61 and order 0.00 is below 0.8" in text


def test_judge_that_always_says_three_is_weak():
    with StubServer(reply=answer()) as server, judge(server, samples=1) as one:
        report = check_agreement(one, read_pairs()[:10])
    assert len(report.weak) == 3
    assert all(found.spearman is None for found in report.aspects)


def test_judge_that_often_has_no_grade_is_weak():
    with StubServer("refusing") as server, judge(server, samples=1, retries=0) as one:
        report = check_agreement(one, read_pairs()[:2])
    assert report.unjudged == 1.0
    assert "100% of its answers hold no grade" in report.weak


# Files


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("nonsense", "line 2 of .* must be a JSON object with id, instruction"),
        ("{}", "must be a JSON object"),
        ("3", "must be a JSON object"),
        ({"content": 6}, "content in line 2 of .* whole number from 1 to 5, got 6"),
        ({"style": True}, "style in line 2 .* got True"),
        ({"reply": 1}, "reply in line 2 of .* must be a text, got 1"),
        ({}, "an id of its own, got 'rainbow-1' again"),
    ],
    ids=["nonsense", "empty", "number", "range", "bool", "reply", "twice"],
)
def test_bad_pairs_are_refused(line, words, tmp_path):
    first = json.dumps({name: getattr(read_pairs()[0], name) for name in GradedPair.__slots__})
    if isinstance(line, dict):
        line = json.dumps({**json.loads(first), **line})
    file = tmp_path / "pairs.jsonl"
    file.write_text(f"{first}\n{line}\n")
    with pytest.raises(InputError, match=words):
        read_pairs(file)


def test_absent_and_empty_pairs_are_refused(tmp_path):
    with pytest.raises(InputError, match="readable file of graded pairs"):
        read_pairs(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="at least one graded pair"):
        check_agreement(judge("http://localhost/v1"), [])


# The command


def run(*words):
    app = typer.Typer()
    app.command()(agreement_command)
    return CliRunner().invoke(app, [*words])


def test_command_prints_a_verdict_and_writes_json(tmp_path):
    out, cache = tmp_path / "agreement.json", tmp_path / "paid.sqlite"
    words = ["--judge-model", "stub", "--judge-samples", "1", "--judge-cache", str(cache)]
    with StubServer(reply=as_given()) as server:
        url = ["--judge-url", server.base_url]
        first = run(*url, *words, "--input-price", "1", "-o", str(out))
        again = run(*url, *words)
        assert server.calls == 80
    assert (first.exit_code, again.exit_code) == (0, 0)
    assert "well enough to be relied on" in first.stdout
    assert "80 replies, 0 from the cache" in first.stderr
    assert "0 replies, 80 from the cache" in again.stderr
    assert first.stdout == again.stdout
    found = json.loads(out.read_text())
    assert [one["aspect"] for one in found["aspects"]] == list(ASPECTS)
    assert (found["weak"], len(found["grades"])) == ([], 40)


def test_command_says_in_one_line_what_is_wrong():
    with StubServer("absent") as server:
        done = run("--judge-url", server.base_url, "--judge-model", "nobody")
    assert done.exit_code == 2
    assert "no such model" in done.stderr
    assert done.stderr.count("\n") == 1
