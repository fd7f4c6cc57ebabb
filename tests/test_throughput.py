"""What `runs/throughput.py` makes of a build's journal and a run's log."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from llama_omni.data.journal import Journal, Part
from llama_omni.train.stage_settings import StageOneSettings

RUNS = Path(__file__).parents[1] / "runs"
COST = {"wall_s": 10.0, "process_s": 20.0, "records": 100, "rejected": 0, "steady": 50.0}
MACHINE = {
    "gpu": None,
    "cpu": "a processor",
    "cores": 4,
    "memory_gib": 8,
    "system": "Linux",
    "load_average": 0.2,
    "versions": {"torch": "2", "cuda": None},
    "date": "2026-01-01",
}


@pytest.fixture(scope="module")
def parts():
    sys.path.insert(0, str(RUNS))
    names = ("throughput", "throughput_data", "throughput_report", "throughput_train")
    found = {name: importlib.import_module(name) for name in names}
    sys.path.remove(str(RUNS))
    return found


def test_steady_rate_forgets_the_parts_that_opened_things(parts, tmp_path):
    journal = Journal(tmp_path)
    for number, seconds in enumerate((30.0, 30.0, 2.0, 2.0, 2.0, 0.0)):
        journal.finish(Part(stage="units", number=number, records=8, seconds=seconds))
    assert parts["throughput_data"]._steady(journal, "units", 2) == 2 * 8 / 2.0
    assert parts["throughput_data"]._steady(journal, "fit", 2) is None


def test_steps_of_the_warm_up_are_not_timed(parts, tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [{"step": i + 1, "loss": 1.0, "seconds": s} for i, s in enumerate((9.0, 11.0, 14.0))]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    counted = [(2, 50), (2, 50), (2, 7), (1, 5), (2, 6), (1, 4)]
    settings = StageOneSettings(batch_size=2, accumulation=2)
    found = parts["throughput_train"]._timed(path, counted, settings, 1)
    assert found == {"seconds": 5.0, "rows": 6, "targets": 22}


def test_page_scales_to_the_papers_records_and_lengths(parts):
    report = parts["throughput_report"]
    mean = {"question_s": 2.5, "answer_s": 1.0, "num_units": 40.0}
    assert report.scale("synthesise", mean) == pytest.approx(26.5 / 3.5)
    assert report.scale("units", mean) == pytest.approx(19.0)
    assert report.scale("rewrite", mean) == report.scale("units", None) == 1.0
    recipe = {"name": "tiny", "part_rows": 8, "preset": "tiny"}
    data = {"recipe": recipe, "records": 100, "mean": mean, "rounds": {"2": [{"units": COST}]}}
    stages = {
        "stage1": [{"seconds": 2.0, "rows": 10, "targets": 51 * 100}],
        "stage2": "needs about 9 GiB on cpu, 8 free",
    }
    train = {
        "recipe": recipe,
        "parameters": {"all": 7e6},
        "threads": 1,
        "steps": 2,
        "warm_up": 1,
        "stages": stages,
    }
    result = {**report.begin("a command"), "data": data, "train": train, "machine": MACHINE}
    page = report.markdown(result | {"load_before": 3.0})
    assert "| units | 50 [50, 50] |" in page  # at work
    assert "| units | 10 [10, 10] |" in page  # on the wall
    assert "| records as these | 1.11 [1.11, 1.11] |" in page  # 200,000 / 50 seconds
    assert "| at the paper's lengths | 21.1 [21.1, 21.1] |" in page
    # 3 epochs of 200,000 answers of 51 tokens, at 2,550 tokens a second
    assert "| stage1 | 5 [5, 5] | 2,550 [2,550, 2,550] tokens | 3.33 [3.33, 3.33] |" in page
    assert "stage2 was left out: it needs about 9 GiB" in page
    assert "Something else ran on this machine (load 3.0)" in page
    assert "Something else" not in report.markdown(result | {"load_before": 0.1})


def test_impossible_options_are_refused_in_one_line(parts, tmp_path, capsys):
    main = parts["throughput"].main
    for words, message in (
        (["--only", "train"], "--only train must be given --data"),
        (["--processes", "1,x"], "--processes must be numbers above 0, got '1,x'"),
        (["--steps", "0"], "--steps must be at least 1, got 0"),
        (["--data", str(tmp_path)], "--data must be a data set's folder"),
    ):
        assert main(["-o", str(tmp_path), *words]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_command_is_shown_without_folders_of_this_machine(parts):
    shown = parts["throughput"].shown(["-o", "/far/away/results", "--only", "data"])
    assert shown == "python runs/throughput.py -o results --only data"
