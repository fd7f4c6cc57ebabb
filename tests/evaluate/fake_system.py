"""A fast system and a small set, also for a process that is killed: `python -m ... FOLDER`."""

import sys
import time
from pathlib import Path

import numpy as np

from llama_omni.errors import EngineError
from llama_omni.evaluate.measure_settings import MeasureSettings
from llama_omni.evaluate.measures import make_measures
from llama_omni.evaluate.measuring import measure
from llama_omni.evaluate.records import Condition, EvalItem
from llama_omni.evaluate.report import write_report
from llama_omni.evaluate.results import Results
from llama_omni.evaluate.run import RunSettings, choose, run
from llama_omni.interfaces import Reply, Timings

CONDITIONS = tuple(map(Condition.of, ("s2tif", "s2sif-10", "s2sif-inf")))


class ToneSet:
    """Questions that are tones, each of its own pitch."""

    name, notes = "tones", ("Made in a test.",)

    def __init__(self, count=6):
        self.items = tuple(
            EvalItem(id=f"q {i}/", instruction=f"Say {i}.", references=(f"it is {i}",))
            for i in range(count)
        )

    def speech(self, item):
        pitch = 200 + 50 * self.items.index(item)
        wave = np.sin(2 * np.pi * pitch * np.arange(8000) / 16000)
        return (0.3 * wave).astype(np.float32)


class Echo:
    """Answers which tone it heard; fails where it is told to."""

    def __init__(self, fails=(), pause_s=0.0):
        self.fails, self.pause_s, self.asked = set(fails), pause_s, 0

    def ask(self, question, options):
        self.asked += 1
        time.sleep(self.pause_s)
        spectrum = np.abs(np.fft.rfft(question.audio))
        number = round((float(spectrum.argmax()) * 2 - 200) / 50)
        if number in self.fails:
            raise EngineError(f"tone {number} is too much")
        spoken = options.speech
        tone = np.full(1600, 0.1 + 0.01 * number, np.float32) if spoken else np.zeros(0, np.float32)
        return Reply(
            text=f"It is {number}.",
            audio=tone,
            sample_rate=16_000,
            token_ids=(1, 2, 3),
            units=(number, 7) if spoken else (),
            unit_tokens=(0, 1) if spoken else (),
            sample_tokens=((0, 3),) if spoken else (),
            lagging_words=2 if spoken else None,
            finish_reason="stop",
            timings=Timings(first_audio_s=0.25 if spoken else None, total_s=0.5),
        )


def evaluate(folder, echo, *, conditions=CONDITIONS, batch=1, count=6):
    """Run, measure and report, as the command does."""
    tones = ToneSet(count)
    settings = RunSettings(conditions=conditions, batch=batch)
    items = choose(tones, None)
    names = [condition.name for condition in conditions]
    facts = {"system": "echo", "conditions": names, "seed": 0, "batch": batch}
    results = Results(Path(folder), tones, items, facts)
    failed = run(echo.ask, tones, items, results, settings)
    measure(Path(folder), make_measures(["timing", "text", "accuracy"], MeasureSettings()))
    write_report(Path(folder))
    return failed


if __name__ == "__main__":
    evaluate(sys.argv[1], Echo(pause_s=0.02))
