"""`llama-omni evaluate` as it is typed: the main ways through it, and what it refuses."""

import json

import numpy as np
import pytest

import llama_omni
from llama_omni import audio
from llama_omni.cli import main
from llama_omni.evaluate.evaluated import read_evaluated
from tests.evaluate.fake_system import Echo
from tests.evaluate.judge_tools import answer
from tests.stub_server import StubServer


class Embedded(Echo):
    """What `load` gives: an assistant that answers with the tone's number."""

    def reply(self, turn, options):
        return self.ask(turn, options)


@pytest.fixture
def system(monkeypatch):
    one = Embedded()
    monkeypatch.setattr(llama_omni, "load", lambda *_, **__: one)
    return one


@pytest.fixture
def recordings(tmp_path):
    """Three recordings, with a table of what is asked."""
    folder = tmp_path / "mine"
    folder.mkdir()
    rows = []
    for number in range(3):
        pitch = 200 + 50 * number
        wave = np.sin(2 * np.pi * pitch * np.arange(8000) / 16000)
        audio.save(folder / f"q{number}.wav", (0.3 * wave).astype(np.float32), 16_000)
        rows.append(
            {
                "audio": f"q{number}.wav",
                "instruction": f"Say {number}.",
                "reference": str(number),
                "category": "odd" if number % 2 else "even",
            }
        )
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def evaluate(*words):
    return main(["evaluate", *map(str, words)])


def run(recordings, out, *words):
    return evaluate("--set", f"folder:{recordings}", "--omega", "10", "-o", out, *words)


def test_a_set_is_asked_measured_and_reported(tmp_path, system, recordings, capsys):
    out = tmp_path / "out"
    assert run(recordings, out) == 0
    assert f"report in {out / 'report.html'}" in capsys.readouterr().out
    assert system.asked == 1 + 6
    text = (out / "report.md").read_text()
    assert "Right answers of embedded by category" in text
    assert "| even | 100 (2) | 100 (2) |" in text
    assert str(tmp_path) not in (out / "run.json").read_text()
    assert run(recordings, out) == 0
    assert system.asked == 7  # nothing was left to ask


def test_a_recording_that_cannot_be_read_is_a_row_and_a_mended_one_is_asked(
    tmp_path, system, recordings
):
    out, spoilt = tmp_path / "out", recordings / "q1.wav"
    whole = spoilt.read_bytes()
    spoilt.write_bytes(b"this is no sound")
    assert run(recordings, out) == 0
    rows = read_evaluated(out).rows
    assert rows["q1", "s2tif"].error.startswith("not asked: the sound of q1 cannot be used")
    assert rows["q2", "s2sif-10"].error is None
    assert read_evaluated(out).score("accuracy_text", "s2tif").count == 2  # not held against it
    assert "| not asked | s2tif, s2sif-10 | Say 1. |" in (out / "report.md").read_text()
    spoilt.write_bytes(whole)
    assert run(recordings, out) == 0
    assert read_evaluated(out).score("accuracy_text", "s2tif").count == 3
    assert "None was found." in (out / "report.md").read_text()


def test_a_reply_that_failed_is_a_wrong_answer(tmp_path, system, recordings):
    system.fails = {2}
    assert run(recordings, tmp_path / "out") == 0
    score = read_evaluated(tmp_path / "out").score("accuracy_text", "s2tif")
    assert (score.value, score.count) == (pytest.approx(200 / 3), 3)


def test_judged_by_a_server_from_several_threads(tmp_path, system, recordings, capsys):
    out = tmp_path / "out"
    with StubServer(reply=answer(content=4), delay_s=0.05) as server:
        judged = ["--judge-url", server.base_url, "--judge-model", "stub"]
        assert run(recordings, out, "--metrics", "judge", "--mode", "s2tif", *judged) == 0
        assert server.most_busy > 2  # two requests a reply
        calls = server.calls
        assert evaluate("measure", out, "--metrics", "judge", *judged) == 0
        assert server.calls == calls
    assert "judge:" in capsys.readouterr().err
    assert read_evaluated(out).score("judge_content", "s2tif").value == 4
    lines = (out / "measures" / "judge.jsonl").read_text().splitlines()
    assert [json.loads(line)["item"] for line in lines] == ["q0", "q1", "q2"]


def test_two_systems_are_reported_and_compared(tmp_path, system, recordings, capsys):
    one, two, both = (tmp_path / name for name in ("one", "two", "both"))
    assert run(recordings, one) == 0
    system.fails = {0}
    assert run(recordings, two) == 0
    assert evaluate("compare", one, two, "-o", both) == 0
    found = {
        (line["score"], line["condition"]): line
        for line in json.loads((both / "compare.json").read_text())
    }
    assert found["accuracy_text", "s2tif"]["before"] == 100
    assert found["accuracy_text", "s2tif"]["after"] == pytest.approx(200 / 3)
    assert evaluate("report", one, two, "-o", both) == 0
    assert evaluate("report", one, two) == 2
    assert "needs a folder to go to" in capsys.readouterr().err


def test_measures_of_other_settings_are_not_compared(tmp_path, system, recordings):
    one, two, both = (tmp_path / name for name in ("one", "two", "both"))
    assert run(recordings, one) == 0
    assert run(recordings, two) == 0
    file = two / "scores.json"
    scores = json.loads(file.read_text())
    scores["settings"]["accuracy"] = {"recognizer": "another"}
    file.write_text(json.dumps(scores))
    assert evaluate("compare", one, two, "-o", both) == 0
    text = (both / "compare.md").read_text()
    assert "accuracy: measured of the two with other settings" in text
    assert "accuracy_text" not in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--metrics", "bleu"], "--metrics must be of timing, text, accuracy"),
        (["--set", "mine"], "--set must be one of tiny, instructs2s_eval:FILE"),
        (["--mode", "s2t"], "--mode must be of s2tif, s2sif, got 's2t'"),
        (["--omega", "0"], "chunk_size"),
        (["--batch", "0"], "--batch must be at least 1"),
        (["--limit", "0"], "--limit must be at least 1"),
        (["--system", "no/such/folder"], "no/such/folder"),
        (["--judge-url", "http://127.0.0.1:1/v1"], "--judge-url and --judge-model must be given"),
        (["--set", "folder:no/such"], "must be a folder of recordings"),
        (["--set", "instructs2s_eval:no.json"], "must be spoken: give --voice"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_said_in_one_line(tmp_path, capsys, words, said):
    assert evaluate(*words, "-o", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_a_folder_that_cannot_be_filled_is_refused_and_left_as_it_was(
    tmp_path, system, recordings, capsys
):
    (tmp_path / "file").touch()
    assert run(recordings, tmp_path / "file" / "out") == 2
    assert "must be writable" in capsys.readouterr().err
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").touch()
    (other / ".draft.part").touch()
    assert run(recordings, other) == 2
    assert "must be a new folder" in capsys.readouterr().err
    assert sorted(path.name for path in other.iterdir()) == [".draft.part", "thesis.txt"]
    assert system.asked == 0


def test_a_name_may_be_mended_in_the_same_folder(tmp_path, recordings, capsys, monkeypatch):
    out = tmp_path / "out"
    assert run(recordings, out, "--system", "no/such/folder") == 2
    monkeypatch.setattr(llama_omni, "load", lambda *_, **__: Embedded())
    assert run(recordings, out) == 0
    assert run(recordings, out, "--system", "no/such/folder") == 2
    assert 'differs in system ("embedded", now "no/such/folder")' in capsys.readouterr().err


def test_a_finished_run_loads_no_system(tmp_path, recordings, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr(llama_omni, "load", lambda *_, **__: Embedded())
    assert run(recordings, out) == 0
    monkeypatch.delattr(llama_omni, "load")
    assert run(recordings, out) == 0


def test_a_folder_without_results_or_scores_says_what_to_do(tmp_path, system, recordings, capsys):
    assert evaluate("measure", tmp_path) == 2
    assert "has no run.json" in capsys.readouterr().err
    assert run(recordings, tmp_path / "out") == 0
    (tmp_path / "out" / "scores.json").unlink()
    assert evaluate("report", tmp_path / "out") == 2
    assert "llama-omni evaluate measure" in capsys.readouterr().err
