"""Whole small loads: a real server with the embedded model, and an engine alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.serve_load import main

ROOT = Path(__file__).parents[2]
QUESTION = ROOT / "examples" / "question.wav"
# On a full machine nothing is on time; these runs are to end and to count, whatever the times.
PATIENT = ["--max-late", "1", "--max-first-audio", "600", "--stagger", "0.5", "--turns", "1"]
LACKING = ("fastapi", "uvicorn", "onnxruntime", "websockets", "prometheus_client")


def result(folder, name):
    assert {path.name for path in folder.iterdir()} == {
        f"{name}.{s}" for s in ("json", "md", "png")
    }
    assert str(folder) not in (folder / f"{name}.md").read_text()
    return json.loads((folder / f"{name}.json").read_text())


@pytest.mark.slow
def test_two_clients_of_a_real_server(tmp_path):
    arguments = ["--clients", "2", "--question", str(QUESTION), "-o", str(tmp_path)]
    assert main([*arguments, "--device", "cpu", *PATIENT]) == 0
    found = result(tmp_path, "serve-load-tiny-cpu-float32")
    assert [row["speculation"] for row in found["rows"]] == [True, False]
    for row in found["rows"]:
        assert (row["clients"], row["turns"], row["answered"]) == (2, 2, 2), row["why"]
        assert row["sound_s"] > 1
        assert row["first_audio_after_speech_s"]["p50"] > row["first_audio_after_turn_s"]["p50"]
        assert row["knock_s"]["p50"] > 0
    on, off = (row["speculated"] for row in found["rows"])
    assert on["begun"] + on["left_out"] >= 2
    assert off["begun"] == 0
    assert found["command"].endswith(" ".join(["--device", "cpu", *PATIENT]))


@pytest.mark.slow
def test_engine_alone_needs_no_web_framework(tmp_path):
    for name in LACKING:
        (tmp_path / f"{name}.py").write_text("raise ImportError('not on this machine')\n")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "benchmarks.serve_load", "--direct", "--preset", "tiny"]
    command += ["--clients", "1,2", "--tokens", "5", "--question-s", "0.5", "--device", "cpu"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run(
        [*command, *PATIENT, "-o", str(out)], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = result(out, "serve-load-tiny-random-cpu-float32-direct")
    assert [row["clients"] for row in found["rows"]] == [1, 1, 2, 2]
    for row in found["rows"]:
        assert row["answered"] == row["clients"], row["why"]
        assert row["sound_s"] == pytest.approx(row["clients"] * found["rows"][0]["sound_s"])
    assert found["rows"][0]["speculated"]["begun"] >= 1
