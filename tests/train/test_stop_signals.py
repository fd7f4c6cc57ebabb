import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from llama_omni.train import stop_signals
from llama_omni.train.stop_signals import watch_signals

LOADING = """
import sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from llama_omni.train.runner import train
from tests.train.runs import Line, Rows, settings
class Slow(Line):
    def count(self, batch):
        time.sleep(0.05)
        return super().count(batch)
rows = Rows()
train(Slow(), rows, rows.lengths, settings(workers=2, max_steps=400, save_every=400), Path({out!r}))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_is_noted_and_the_second_stops_at_once(number, monkeypatch):
    before = signal.getsignal(number)
    with watch_signals() as seen:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)  # handed on by a launcher: the same
        assert seen == [number]
        monkeypatch.setattr(stop_signals, "_SAME_S", 0.0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_other_threads_watch_nothing():
    found = []

    def watch():
        before = signal.getsignal(signal.SIGTERM)
        with watch_signals() as seen:
            found.append((seen, signal.getsignal(signal.SIGTERM) is before))

    thread = threading.Thread(target=watch)
    thread.start()
    thread.join()
    assert found == [([], True)]


def test_signal_to_all_processes_of_a_run_leaves_the_loaders_to_the_main_one(tmp_path):
    out = tmp_path / "run"
    script = LOADING.format(root=os.path.abspath("."), out=str(out))
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    metrics = out / "metrics.jsonl"
    while process.poll() is None and not (metrics.is_file() and metrics.stat().st_size):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert "KeyboardInterrupt" in output, output
    assert list(out.glob("checkpoints/step-*")), output
