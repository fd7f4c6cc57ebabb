"""Measurements of the tiny model that were stopped go on and do nothing twice."""

import pytest

from llama_omni.bench.journal import Journal
from llama_omni.errors import InputError
from tests.bench.tiny_tools import FakeAssistant, FakeRecognizer, measure


def test_a_run_that_was_stopped_goes_on_and_does_nothing_twice(data, result, tmp_path):
    first = FakeAssistant(dies_at=4)
    with pytest.raises(KeyboardInterrupt):
        measure(data, tmp_path, first)
    assert first.asked == [2, 3, 4]
    with (tmp_path / "work/replies.jsonl").open("a") as file:
        file.write('{"key": "test_seen/row-4", "rep')  # cut while it was written
    second, recognizer = FakeAssistant(), FakeRecognizer()
    found = measure(data, tmp_path, second, recognizer)
    assert second.asked == [4, 5800, 5, 6, 7, 8]  # 5800: the earlier turn of case 5
    assert found["scores"] == result["scores"]
    third, again = FakeAssistant(), FakeRecognizer()
    assert measure(data, tmp_path, third, again)["scores"] == result["scores"]
    assert (third.asked, again.heard) == ([], [])
    assert len(recognizer.heard) == len(set(recognizer.heard)) == 5 + 2 * 3


def test_a_recogniser_that_was_stopped_goes_on(data, result, tmp_path):
    class Dies(FakeRecognizer):
        def transcribe(self, audio):
            if len(self.heard) == 4:
                raise KeyboardInterrupt
            return super().transcribe(audio)

    first, second = Dies(), FakeRecognizer()
    with pytest.raises(KeyboardInterrupt):
        measure(data, tmp_path, recognizer=first)
    assert measure(data, tmp_path, recognizer=second)["scores"] == result["scores"]
    assert len({*first.heard, *second.heard}) == len(first.heard) + len(second.heard) == 11


def test_a_journal_of_something_else_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": 1}\n')
    with pytest.raises(InputError, match=r"a.jsonl, line 1 must be a row .*; delete the file"):
        Journal(tmp_path / "a.jsonl")
