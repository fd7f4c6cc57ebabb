"""Measuring again: other settings, back again, several at a time, and half-way failures."""

import json
import threading

import pytest

from llama_omni.errors import ToolError
from llama_omni.evaluate.evaluated import read_evaluated
from llama_omni.evaluate.measuring import measure
from llama_omni.evaluate.scoring import PartsMeasure, Spec
from tests.evaluate.fake_system import CONDITIONS, Echo, evaluate


class Length(PartsMeasure):
    """The text's letters times a factor, from several threads; fails at one item if told to."""

    name = "length"
    specs = (Spec(name="length"),)

    def __init__(self, factor=1, *, parallel=1, fails=None):
        self.factor, self.parallel, self.fails = factor, parallel, fails
        self.asked, self.together = [], 0
        self._busy, self._lock = 0, threading.Lock()
        self._meet = threading.Barrier(parallel)

    @property
    def settings(self):
        return {"factor": self.factor}

    def value(self, row, item, folder):
        with self._lock:
            self.asked.append(row.item)
            self._busy += 1
            self.together = max(self.together, self._busy)
        if self.parallel > 1:
            self._meet.wait(60)  # nobody goes on before all are there
        with self._lock:
            self._busy -= 1
        if row.item == self.fails:
            raise ToolError("the server is gone")
        return {"length": len(row.text) * self.factor}

    def parts(self, row, item, value):
        return {"length": (float(value["length"]), 1.0)}


@pytest.fixture
def folder(tmp_path):
    evaluate(tmp_path, Echo(), conditions=CONDITIONS[:1])
    return tmp_path


def lines(folder):
    text = (folder / "measures" / "length.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def values(folder):
    return [value["length"] for value in read_evaluated(folder).values["length"].values()]


def test_other_settings_and_back_again_leave_the_values_of_the_last(folder):
    for factor, asked in ((1, 6), (2, 6), (1, 0)):
        one = Length(factor)
        measure(folder, [one])
        assert len(one.asked) == asked
        assert values(folder) == [len("It is 0.") * factor] * 6
        assert read_evaluated(folder).settings["length"] == {"factor": factor}


def test_several_at_a_time_are_written_in_order(folder):
    one = Length(parallel=3)
    (score,) = [score for score in measure(folder, [one]) if score.name == "length"]
    assert one.together == 3
    assert (score.value, score.count) == (8, 6)
    assert [line["item"] for line in lines(folder)] == [f"q {i}/" for i in range(6)]


@pytest.mark.parametrize("parallel", [1, 2])
def test_what_came_before_a_failure_is_kept_and_the_rest_measured_later(folder, parallel):
    scores = measure(folder, [Length(parallel=parallel, fails="q 3/")])
    (score,) = [score for score in scores if score.name == "length"]
    assert score.value is None
    assert "the server is gone" in str(score.absent)
    assert [line["item"] for line in lines(folder)] == ["q 0/", "q 1/", "q 2/"]
    again = Length()
    measure(folder, [again])
    assert again.asked == ["q 3/", "q 4/", "q 5/"]


def test_values_of_replies_that_were_replaced_are_not_read(folder):
    measure(folder, [Length()])
    file = folder / "replies.jsonl"
    file.write_text(file.read_text().replace("It is 0.", "It is nought."))
    assert len(values(folder)) == 5
