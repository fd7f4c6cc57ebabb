"""What would stop a stage late is refused before the first one begins."""

import importlib.util
import json

import pytest
import torch

from llama_omni.errors import ConfigError, MissingExtraError, OutputError
from llama_omni.train.readiness import check_ready
from llama_omni.train.runner import train
from llama_omni.train.stage_settings import StageOneSettings, StageTwoSettings
from tests.train.talk import examples, stage_one, stage_two, talking_model

SPLITS = ("seen", "unseen")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (StageOneSettings(metric="wer"), r"stage.metric must be one of loss, exact, .*, got 'wer'"),
        (StageOneSettings(metric="exact_nowhere", greater_is_better=True), "got 'exact_nowhere'"),
        (StageTwoSettings(metric="exact"), r"one of loss, unit_error, .*, got 'exact'"),
    ],
)
def test_metric_that_no_evaluation_gives_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        check_ready(settings, SPLITS, name="stage")
    check_ready(settings, (), name="stage")


@pytest.mark.parametrize("make", [stage_one, stage_two])
def test_metrics_that_are_known_are_those_of_an_evaluation(make):
    task = make(*talking_model(), rows=examples(2), max_new_tokens=2)
    with torch.no_grad():
        numbers = task.evaluate(0)
    for metric in numbers:
        better = {"greater_is_better": True}
        check_ready(type(task._settings)(metric=metric, **better), ("seen",), name="stage")


def test_cache_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    settings = StageTwoSettings(state_cache=str(tmp_path / "file" / "cache"))
    with pytest.raises(OutputError, match=r"stage2.state_cache must be a folder .*file/cache: Not"):
        check_ready(settings, (), name="stage2")


def test_absent_wandb_is_told_with_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    message = "stage2.wandb_project needs the package 'wandb'; install it with: pip install wandb$"
    with pytest.raises(MissingExtraError, match=message):
        check_ready(StageTwoSettings(wandb_project="mine"), (), name="stage2")


def test_run_that_an_earlier_version_noted_fields_of_lora_for_goes_on_without_it(tmp_path):
    rows = examples(8)
    for stop in (1e-9, 0.0):
        task = stage_one(*talking_model(), max_steps=3, stop_after_s=stop)
        result = train(task, rows, rows.lengths, task._settings, tmp_path)
        path = tmp_path / "settings.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"lora_rank": 8}))
    assert result.done
