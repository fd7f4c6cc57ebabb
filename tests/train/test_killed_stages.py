"""Both stages, killed at random points again and again, end as an undisturbed run does."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llama_omni.train.runner import train
from tests.train.talk import examples, stage_one, stage_two, talking_model

ROOT = Path(__file__).parents[2]
STAGES = {"one": stage_one, "two": stage_two}
STEPS, KILLS = 48, 4
SETTINGS = {"max_steps": STEPS, "batch_size": 4, "save_every": 3, "eval_every": 8}
RUN = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.train.test_killed_stages import run
run(sys.argv[1], Path(sys.argv[2]))
"""


def run(name, output):
    rows = examples()
    task = STAGES[name](*talking_model(), rows=rows[:4], **SETTINGS)
    return train(task, rows, rows.lengths, task._settings, output)


def lines_of(output):
    file = output / "metrics.jsonl"
    return file.read_text().splitlines() if file.exists() else []


def results(output):
    """Return every number but the clock's, and the weights to the bit."""
    lines = [json.loads(line) for line in lines_of(output)]
    numbers = [{k: v for k, v in line.items() if k != "seconds"} for line in lines]
    return numbers, (output / "final" / "model.safetensors").read_bytes()


@pytest.mark.slow  # by default: test_runner.py's, and the stopped stages of test_stages.py
@pytest.mark.parametrize("name", STAGES)
def test_stage_killed_at_random_points_ends_the_same(name, tmp_path):
    whole, output = tmp_path / "whole", tmp_path / "killed"
    run(name, whole)
    chance = random.Random(name)
    for _ in range(KILLS):
        process = subprocess.Popen([sys.executable, "-c", RUN, name, output], cwd=ROOT)
        wanted = len(lines_of(output)) + chance.randint(1, 6)
        while len(lines_of(output)) < wanted and process.poll() is None:
            time.sleep(0.005)
        time.sleep(chance.random() * 0.05)  # anywhere: in a step, in an evaluation, in a save
        process.kill()
        assert process.wait() == -signal.SIGKILL, "it must not end before"
    assert run(name, output).done
    assert results(output) == results(whole)
