import json
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from torch.testing import assert_close

from llama_omni.errors import ConfigError, InputError, OutputError, TrainingError
from llama_omni.train.runner import train
from tests.train.runs import Line, Rows, lines, settings


def run(output, task=None, **changes):
    task, rows = task or Line(), Rows()
    result = train(task, rows, rows.lengths, settings(**changes), output)
    return task, result


def test_run_lowers_the_loss_and_writes_everything(tmp_path):
    _, result = run(tmp_path, max_steps=60)
    found = lines(tmp_path)
    losses = [row["loss"] for row in found if "loss" in row]
    assert result.done
    assert result.step == 60
    assert losses[-1] < losses[0] / 2
    assert result.best == min(row["eval_loss"] for row in found if "eval_loss" in row)
    names = {path.name for path in tmp_path.iterdir()}
    expected = {"checkpoints", "best", "final", "metrics.jsonl", "settings.json", "done.json"}
    assert names == expected
    assert (tmp_path / "best/weights.pt").exists()
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-00000056", "step-00000060"]


def test_finished_run_returns_at_once_with_its_weights(tmp_path):
    first, _ = run(tmp_path)
    before = lines(tmp_path)
    again, result = run(tmp_path)
    assert result.done
    assert lines(tmp_path) == before
    assert_close(again.model.state_dict(), first.model.state_dict(), rtol=0, atol=0)


def test_accumulation_equals_the_large_batch(tmp_path):
    plain = {"dropout": 0.0, "noise": 0.0}
    one, _ = run(tmp_path / "one", Line(**plain), batch_size=4)
    two, _ = run(tmp_path / "two", Line(**plain), batch_size=1, accumulation=4)
    assert_close(one.model.state_dict(), two.model.state_dict())
    for a, b in zip(lines(tmp_path / "one"), lines(tmp_path / "two"), strict=True):
        assert a == pytest.approx(b, rel=1e-4)


def test_stopped_run_goes_on_with_identical_losses(tmp_path):
    run(tmp_path / "whole")
    _, part = run(tmp_path / "parts", stop_after_s=1e-9)
    assert not part.done
    assert part.step == 1
    while not part.done:
        _, part = run(tmp_path / "parts", stop_after_s=1e-9)
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")


def test_loader_processes_change_nothing(tmp_path):
    run(tmp_path / "none")
    run(tmp_path / "two", workers=2)
    assert lines(tmp_path / "two") == lines(tmp_path / "none")


def test_half_checkpoint_is_skipped_and_removed(tmp_path):
    run(tmp_path / "whole")
    run(tmp_path / "cut", stop_after_s=1e-9)
    folder = tmp_path / "cut/checkpoints"
    half = folder / "step-00000009"
    half.mkdir()
    (half / "weights.pt").write_bytes(b"x")
    (folder / ".step-00000010.partial").mkdir()
    short = folder / "step-00000011"
    short.mkdir()
    (short / "weights.pt").write_bytes(b"x")
    (short / "COMPLETE").write_text(json.dumps({"weights.pt": 2}))
    run(tmp_path / "cut")
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000008", "step-00000012"]


def test_nan_loss_names_samples_and_step(tmp_path):
    with pytest.raises(TrainingError, match=r"got nan at step \d+ for samples .*row-7"):
        run(tmp_path, Line(poison="row-7"), max_steps=50)


def test_other_settings_are_refused(tmp_path):
    run(tmp_path, stop_after_s=1e-9)
    with pytest.raises(TrainingError, match=r"got a run with learning_rate=0.01 for 0.1"):
        run(tmp_path, learning_rate=0.1)
    with pytest.raises(TrainingError, match=r"got a run with steps=12 for 13"):
        run(tmp_path, max_steps=13)


def test_settings_are_written_once_and_whole(tmp_path):
    run(tmp_path, stop_after_s=1e-9)
    path = tmp_path / "settings.json"
    before = path.stat().st_mtime_ns, path.read_text()
    run(tmp_path, stop_after_s=1e-9, workers=0, save_every=3)
    assert (path.stat().st_mtime_ns, path.read_text()) == before
    path.write_text("")
    with pytest.raises(TrainingError, match=r"settings.json must hold .* delete this file, and"):
        run(tmp_path)
    path.unlink()
    _, result = run(tmp_path)
    assert result.done
    assert json.loads(path.read_text())["greater_is_better"] is False


@pytest.mark.parametrize("noted", [True, False])
def test_run_of_an_older_version_keeps_what_it_called_better(tmp_path, noted):
    """Its settings.json says true or false, and lacks what came later."""
    run(tmp_path, stop_after_s=1e-9)
    path = tmp_path / "settings.json"
    values = json.loads(path.read_text()) | {"greater_is_better": noted}
    del values["sharding"]
    path.write_text(json.dumps(values))
    _, result = run(tmp_path)
    found = [row["eval_loss"] for row in lines(tmp_path) if "eval_loss" in row]
    assert result.best == (max if noted else min)(found)


class Judged(Line):
    """Gives other numbers than a loss."""

    def __init__(self, values):
        super().__init__()
        self.values = values

    def evaluate(self, step):
        return self.values[step]


def test_accuracy_is_best_where_it_is_greatest(tmp_path):
    task = Judged({6: {"accuracy": 0.5}, 12: {"accuracy": 0.25}})
    assert run(tmp_path, task, metric="accuracy")[1].best == 0.5


def run_watched(output, values, **changes):
    """Return the steps whose products were the best, one after the other."""
    kept = []

    class Watched(Judged):
        def evaluate(self, step):
            self.step = step
            return super().evaluate(step)

        def save(self, folder):
            super().save(folder)
            if folder.name.startswith((".best", "best")):
                kept.append(self.step)

    run(output, Watched(values), eval_every=3, **changes)
    return kept


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ((6.0, 5.8, 5.9, 5.5), [3, 6, 12]),
        ((6.0, float("nan"), 5.9, 5.9), [3, 9, 12]),
        (None, [3, 6, 9, 12]),
    ],
    ids=["lower loss", "loss that is no number", "no loss"],
)
def test_of_equal_evaluations_the_one_of_lower_loss_or_the_later_is_best(
    tmp_path, losses, expected
):
    shown = [{}] * 4 if losses is None else [{"loss": loss} for loss in losses]
    values = {3 * (i + 1): {"exact": 0.0, **more} for i, more in enumerate(shown)}
    assert run_watched(tmp_path, values, metric="exact") == expected


def test_resumed_run_remembers_the_loss_of_its_best(tmp_path):
    values = {
        3 * (i + 1): {"exact": 0.0, "loss": loss} for i, loss in enumerate((5.0, 6.0, 6.0, 4.0))
    }
    steps, part = [], None
    while part is None or not part.done:
        task = Judged(values)
        _, part = run(tmp_path, task, metric="exact", eval_every=3, stop_after_s=1e-9)
        steps.append((tmp_path / "best").stat().st_ino if (tmp_path / "best").exists() else 0)
    assert len(dict.fromkeys(steps)) == 3  # none, that of step 3, that of step 12


def run_fixed(output, fixed, **changes):
    task, rows = Line(), Rows()
    return train(task, rows, rows.lengths, settings(**changes), output, fixed=fixed)


def test_what_the_task_fixes_stays_as_the_run_began(tmp_path):
    fixed = {"lm.question_weight": 0.0, "data_hash": "a"}
    run_fixed(tmp_path, fixed, stop_after_s=1e-9)
    with pytest.raises(TrainingError, match="got a run with data_hash=a for b"):
        run_fixed(tmp_path, fixed | {"data_hash": "b"})
    assert run_fixed(tmp_path, fixed).done


def test_run_that_began_before_its_task_fixed_anything_goes_on(tmp_path):
    run_fixed(tmp_path, None, stop_after_s=1e-9)
    assert run_fixed(tmp_path, {"data_hash": "a"}, stop_after_s=1e-9).step == 2
    with pytest.raises(TrainingError, match="got a run with data_hash=a for b"):
        run_fixed(tmp_path, {"data_hash": "b"})


def test_evaluation_that_is_no_number_is_never_the_best(tmp_path):
    task = Judged({6: {"loss": float("nan")}, 12: {"loss": 3.0}})
    assert run(tmp_path, task)[1].best == 3.0


def test_metric_that_no_evaluation_gives_is_refused_and_can_be_put_right(tmp_path):
    values = {"exact": 0.5, "loss": 1.0, "exact/sums": 0.1}
    task = Judged({6: values, 12: values})
    with pytest.raises(TrainingError, match=r"gives, got 'exakt'; it gives exact, loss$"):
        run(tmp_path, task, metric="exakt", greater_is_better=True)
    assert run(tmp_path, task, metric="exact")[1].best == 0.5
    assert json.loads((tmp_path / "settings.json").read_text())["metric"] == "exact"
    with pytest.raises(TrainingError, match="got a run with metric=exact for loss"):
        run(tmp_path, task, metric="loss")


def test_metric_that_does_not_tell_what_is_better_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"greater_is_better must be .* got 'speed'"):
        run(tmp_path, metric="speed")
    assert not tmp_path.joinpath("settings.json").exists()


class Full(Line):
    """Its disk has no room for samples."""

    def evaluate(self, step):
        with open("/dev/full", "w") as stream:
            stream.write("a reply")
        return super().evaluate(step)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_full_disk_is_one_error_and_the_run_goes_on_afterwards(tmp_path):
    with pytest.raises(OutputError, match="cut must be writable, got: No space left on device"):
        run(tmp_path / "cut", Full())
    run(tmp_path / "cut")
    run(tmp_path / "whole")
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")


def test_other_frozen_weights_are_refused(tmp_path):
    task = Line()
    task.model[0].requires_grad_(False)
    run(tmp_path, task, stop_after_s=1e-9)
    task = Line()
    task.model[0].requires_grad_(False)
    task.model[0].weight.data += 1
    with pytest.raises(TrainingError, match="other frozen weights"):
        run(tmp_path, task)


def test_signal_saves_a_checkpoint_and_stops(tmp_path):
    run(tmp_path / "whole")

    class Slow(Line):
        def count(self, batch):
            time.sleep(0.05)
            return super().count(batch)

    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", Slow())
    assert 0 < len(lines(tmp_path / "cut")) < len(lines(tmp_path / "whole"))
    run(tmp_path / "cut")
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")


SCRIPT = """
import sys, torch
from pathlib import Path
sys.path.insert(0, {root!r})
torch.set_num_threads(1)
from llama_omni.errors import TrainingError
from llama_omni.train.runner import train
from tests.train.runs import Line, Rows, settings
for name, task, changes in {runs}:
    task, rows = Line(**task), Rows()
    try:
        train(task, rows, rows.lengths, settings(**changes), Path(sys.argv[1]) / name)
    except TrainingError as error:
        print(error)
"""
PLAIN = {"dropout": 0.0, "noise": 0.0}


def spawn(tmp_path, *runs, processes=1):
    """Run (folder, task's arguments, settings) one after the other in processes of their own."""
    script = tmp_path / "run.py"
    script.write_text(SCRIPT.format(root=os.path.abspath("."), runs=runs))
    launch = [sys.executable]
    if processes > 1:
        launch += ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
        launch += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    return subprocess.Popen(
        [*launch, str(script), str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    try:
        output, _ = process.communicate(timeout=600)
    finally:
        process.terminate()  # processes that wait for each other for ever
    assert process.returncode == 0, output
    return output


def test_killed_run_goes_on_with_identical_losses(tmp_path):
    changes = {"max_steps": 150, "save_every": 9, "eval_every": 50}
    run(tmp_path / "whole", **changes)
    process = spawn(tmp_path, ("cut", {}, changes))
    while not list((tmp_path / "cut").glob("checkpoints/step-*")) and process.poll() is None:
        time.sleep(0.01)
    time.sleep(0.3 * random.random())
    process.kill()
    process.communicate()
    run(tmp_path / "cut", **changes)
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")


def test_two_processes_equal_one(tmp_path):
    one, _ = run(tmp_path / "one", Line(**PLAIN))
    half = {"batch_size": 2}
    sharded = {**half, "sharding": "fsdp"}
    brief = {**half, "log_every": 5}  # the sums between lines are of both processes
    frozen = {**PLAIN, "frozen": True}
    output = finish(
        spawn(
            tmp_path,
            ("whole", PLAIN, half),
            ("sharded", PLAIN, sharded),
            ("parts", PLAIN, {**sharded, "stop_after_s": 1e-9}),
            ("parts", PLAIN, sharded),
            ("brief", PLAIN, {**brief, "stop_after_s": 1e-9}),
            ("brief", PLAIN, brief),
            ("frozen", frozen, {**sharded, "stop_after_s": 1e-9}),
            ("frozen", frozen, sharded),
            ("poisoned", {**PLAIN, "poison": "row-7"}, {**sharded, "max_steps": 50}),
            processes=2,
        )
    )
    run(tmp_path / "one-brief", Line(**PLAIN), log_every=5)
    run(tmp_path / "one-frozen", Line(**frozen))
    for name in ("whole", "sharded", "parts", "brief", "frozen"):
        like = f"one-{name}" if name in ("brief", "frozen") else "one"
        for a, b in zip(lines(tmp_path / like), lines(tmp_path / name), strict=True):
            assert a == pytest.approx(b, rel=1e-4, abs=1e-6)
    for name in ("whole", "sharded", "parts"):
        weights = torch.load(tmp_path / name / "final/weights.pt", weights_only=True)
        assert_close(weights, one.model.state_dict())
    assert (tmp_path / "sharded/checkpoints/step-00000012/weights-1.pt").exists()
    assert re.search(r"got nan at step \d+ for samples .*row-7", output)
    with pytest.raises(TrainingError, match=r"over 2 processes, as it was .* with whole weights"):
        run(tmp_path / "sharded", sharding="fsdp")


@pytest.mark.parametrize("workers", [0, 1])
def test_row_that_is_refused_is_told_as_it_is_and_leaves_no_worker(tmp_path, workers):
    class Mute(Line):
        def collate(self, items):
            raise InputError("sample x: its question must have sound, got none")

    with pytest.raises(InputError, match=r"^sample x: its question must have sound, got none$"):
        run(tmp_path, Mute(), workers=workers)
    assert not multiprocessing.active_children()
