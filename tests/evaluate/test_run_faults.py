"""What goes wrong around a run: kills at its beginning, two runs at once, odd failures."""

import json

import pytest

from llama_omni.cli import main
from llama_omni.errors import InputError, OutputError
from llama_omni.evaluate.evaluated import read_evaluated
from tests.evaluate.fake_system import CONDITIONS, Echo, ToneSet, evaluate


class Odd(Echo):
    """Raises an error of a kind of its own for some tones."""

    def __init__(self, error, fails=range(100)):
        super().__init__()
        self.error, self.odd = error, set(fails)

    def ask(self, question, options):
        reply = super().ask(question, options)
        if int(reply.text.split()[-1].rstrip(".")) in self.odd:
            raise self.error
        return reply


def rows_of(folder):
    return [json.loads(line) for line in (folder / "replies.jsonl").read_text().splitlines()]


def test_a_run_that_was_killed_before_its_first_file_was_whole_goes_on(tmp_path):
    (tmp_path / "items.jsonl").write_text('{"id": "q')
    (tmp_path / ".run.json.part").write_text('{"sys')
    assert evaluate(tmp_path, Echo()) == 0
    assert len(rows_of(tmp_path)) == 18


def test_what_a_kill_left_unfinished_is_cleared_away(tmp_path):
    evaluate(tmp_path, Echo(), conditions=CONDITIONS[:2])
    part = tmp_path / "audio" / "s2sif-10" / ".q.flac.0123abcd.part"
    part.write_bytes(b"half")
    evaluate(tmp_path, Echo())
    assert not part.exists()


def test_a_second_run_in_the_same_folder_is_refused(tmp_path):
    refused = []

    class Twice(Echo):
        def ask(self, question, options):
            if not refused:
                with pytest.raises(OutputError, match="one run at a time, got a second") as caught:
                    evaluate(tmp_path, Echo())
                refused.append(caught.value)
            return super().ask(question, options)

    evaluate(tmp_path, Twice())
    assert len(refused) == 1
    assert len(rows_of(tmp_path)) == 18


def test_an_error_of_any_kind_is_a_row_and_the_run_goes_on(tmp_path):
    assert evaluate(tmp_path, Odd(RuntimeError("out of memory"), fails=[1, 4])) == 6
    errors = {row["item"]: row["error"] for row in rows_of(tmp_path)}
    assert errors["q 1/"] == errors["q 4/"] == "RuntimeError: out of memory"
    assert errors["q 0/"] is None


def test_questions_that_cannot_be_used_do_not_end_the_run(tmp_path):
    echo = Odd(InputError("audio must be at most 30 s long"), fails=range(7))
    assert evaluate(tmp_path, echo, count=9, conditions=CONDITIONS[:1]) == 7
    rows = read_evaluated(tmp_path).rows
    assert [rows[item.id, "s2tif"].error is None for item in ToneSet(9).items] == [False] * 7 + [
        True
    ] * 2


def test_a_servers_chunk_size_is_stated_and_not_swept(tmp_path, capsys):
    asked = ["evaluate", "--system", "realtime:ws://127.0.0.1:1/v1", "-o", str(tmp_path / "out")]
    assert main([*asked, "--omega", "10,inf"]) == 2
    assert "--omega must be the one chunk size that the server" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
