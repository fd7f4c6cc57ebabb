"""Runs of vocoder training, on the small voice of vocoder_runs.py."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from llama_omni.errors import CheckpointError, ConfigError, TrainingError
from llama_omni.model.vocoder import UnitVocoder, VocoderConfig
from llama_omni.train import vocoder_losses as losses
from llama_omni.train.vocoder import train_vocoder
from llama_omni.train.vocoder_data import SegmentBatch, SpeechSegments
from llama_omni.train.vocoder_step import VocoderStep
from tests.train.vocoder_runs import (
    CONFIGS,
    HIFIGAN,
    LIGHT,
    QUICK,
    SMALL,
    alone,
    lines,
    losses_of,
    run,
    segments_of,
    spoken_row,
    write_set,
    write_voice,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def voice(tmp_path_factory):
    return write_voice(tmp_path_factory.mktemp("voice"))


@pytest.mark.parametrize("kind", CONFIGS)
def test_twenty_steps_lower_the_loss_and_leave_a_vocoder(voice, tmp_path, kind):
    result = run(voice, tmp_path, config=CONFIGS[kind])
    found = losses_of(tmp_path)
    assert len(found) == 20
    assert np.mean(found[-4:]) < 0.8 * np.mean(found[:4])
    assert result.done
    assert result.best["mel_l1"] == min(r["eval_mel_l1"] for r in lines(tmp_path) if len(r) == 3)
    final = UnitVocoder.from_pretrained(tmp_path / "final")
    assert not final.training
    assert json.loads((tmp_path / "done.json").read_text())["metrics"] == result.metrics
    names = {path.name for path in tmp_path.iterdir()}
    assert {"best", "final", "samples", "checkpoints", "settings.json"} <= names
    sounds = sorted(path.parent.name for path in (tmp_path / "samples").rglob("*.wav"))
    assert sounds == ["original", "step-00000010", "step-00000020"]
    assert run(voice, tmp_path, config=CONFIGS[kind]) == result  # at once: nothing is left to do
    assert losses_of(tmp_path) == found


@pytest.mark.parametrize("kind", CONFIGS)
@torch.inference_mode()
def test_what_is_saved_speaks_as_what_was_trained(voice, tmp_path, kind):
    vocoder = UnitVocoder(CONFIGS[kind])
    step = VocoderStep(vocoder, QUICK, alone())
    frames = torch.arange(6)[None].repeat(1, 4)
    for parameter in vocoder.parameters():
        parameter += 0.02 * torch.randn_like(parameter)
    product = step.product()
    product.save_pretrained(tmp_path)
    again = UnitVocoder.from_pretrained(tmp_path)
    assert {name for name, _ in again.named_parameters()} == {
        name for name, _ in UnitVocoder(CONFIGS[kind]).named_parameters()
    }
    assert_close(again.generate(frames), vocoder.eval().generate(frames))


def test_weight_norm_belongs_to_hifiganalone():
    for kind, config in CONFIGS.items():
        vocoder = UnitVocoder(config)
        VocoderStep(vocoder, QUICK, alone())
        has = any("parametrizations" in name for name, _ in vocoder.generator.named_parameters())
        assert has == (kind == "hifigan")


@pytest.mark.parametrize("judged_from", [None, 3], ids=["plain", "adversarial"])
def test_stopped_run_goes_on_with_identical_losses(voice, tmp_path, judged_from):
    changes = {"max_steps": 8, "eval_every": 4, "adversarial_from": judged_from}
    changes["discriminator_divisor"] = 16
    run(voice, tmp_path / "whole", **changes)
    part = run(voice, tmp_path / "parts", stop_after_s=1e-9, **changes)
    assert (part.step, part.done) == (1, False)
    while not part.done:
        part = run(voice, tmp_path / "parts", stop_after_s=1e-9, **changes)
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")
    one, two = (
        UnitVocoder.from_pretrained(tmp_path / name / "final").state_dict()
        for name in ("whole", "parts")
    )
    assert_close(one, two, rtol=0, atol=0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_saves_a_checkpoint_and_stops(voice, tmp_path, monkeypatch, number):
    changes = {"max_steps": 6, "save_every": 100}
    run(voice, tmp_path / "whole", **changes)
    batch = SpeechSegments.batch

    def interrupted(self, *arguments, step, **options):
        if step == 2:
            os.kill(os.getpid(), number)
        return batch(self, *arguments, step=step, **options)

    with monkeypatch.context() as patch:
        patch.setattr(SpeechSegments, "batch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(voice, tmp_path / "cut", **changes)
    assert (tmp_path / "cut/checkpoints/step-00000003/COMPLETE").exists()
    assert run(voice, tmp_path / "cut", **changes).done
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")


KILLED = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.train.vocoder_runs import run
run(Path(sys.argv[1]), Path(sys.argv[2]), max_steps=40, save_every=5)
"""


@pytest.mark.slow  # by default: test_runner.py's, and the stopped run above
def test_killed_run_goes_on_with_identical_losses(voice, tmp_path):
    run(voice, tmp_path / "whole", max_steps=40, save_every=5)
    output = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", KILLED, voice, output], cwd=ROOT)
    try:
        for _ in range(2400):
            if list(output.glob("checkpoints/step-*/COMPLETE")) and len(losses_of(output)) > 12:
                break
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    half = output / "checkpoints" / "step-00000039"
    half.mkdir()
    (half / "weights.pt").write_bytes(b"cut")
    result = run(voice, output, max_steps=40, save_every=5)
    assert result.done
    assert losses_of(output) == losses_of(tmp_path / "whole")


def test_accumulation_equals_the_large_batch(voice):
    """With what is a mean over rows: mel and durations; not the spectral convergence."""
    segments = segments_of(voice)
    halves = [segments.batch(3, 10, step=0, part=part) for part in (0, 1)]
    joined = SegmentBatch(
        ids=[name for half in halves for name in half.ids],
        lengths=None,
        **{
            name: torch.cat([getattr(half, name) for half in halves])
            for name in ("sound", "frames", "units", "durations")
        },
    )
    settings = replace(QUICK, stft_weight=0.0)
    weights = []
    for batches in ([joined], halves):
        torch.manual_seed(0)
        step = VocoderStep(UnitVocoder(without_dropout(LIGHT)), settings, alone())
        numbers = step(batches, learning_rate=1e-3, judged=False)
        weights.append((numbers, step.weights()))
    (one, whole), (two, parts) = weights
    assert two == pytest.approx(one, rel=1e-4)
    assert_close(parts, whole, atol=1e-5, rtol=0)


def without_dropout(config):
    fields = config.to_diff_dict() | {"duration_dropout": 0.0}
    return VocoderConfig(**{k: v for k, v in fields.items() if k in vars(VocoderConfig())})


def test_nan_loss_names_step_and_answers(voice, tmp_path, monkeypatch):
    distance = losses.stft_distance
    calls = []

    def poisoned(made, real):
        calls.append(1)
        return distance(made, real) * (float("nan") if len(calls) == 3 else 1)

    monkeypatch.setattr(losses, "stft_distance", poisoned)
    with pytest.raises(TrainingError, match=r"step 3: loss must be .* got nan .* row-\d+"):
        run(voice, tmp_path)


def test_endless_gradient_is_refused(voice):
    vocoder = UnitVocoder(LIGHT)
    step = VocoderStep(vocoder, QUICK, alone())
    vocoder.embedding.weight.register_hook(lambda grad: grad * float("inf"))
    batch = segments_of(voice).batch(2, 10, step=0, part=0)
    before = vocoder.generator.head.weight.clone()
    with pytest.raises(TrainingError, match="gradient of the vocoder must be a finite number"):
        step([batch], learning_rate=1e-3, judged=False)
    assert torch.equal(vocoder.generator.head.weight, before)


def test_another_runs_folder_is_refused(voice, tmp_path):
    run(voice, tmp_path, max_steps=2)
    with pytest.raises(TrainingError, match=r"got a run with learning_rate=0.003 for 0.1"):
        run(voice, tmp_path, max_steps=2, learning_rate=0.1)
    with pytest.raises(
        TrainingError, match=r"got a run with vocoder.generator=convnext-istft for hifigan"
    ):
        run(voice, tmp_path, max_steps=2, config=HIFIGAN)
    run(voice, tmp_path, max_steps=2, log_every=2, save_every=9)
    settings = replace(QUICK, max_steps=2)
    with pytest.raises(TrainingError, match=r"must be a new folder, got a run with settings.json"):
        train_vocoder(voice, settings, tmp_path, config=LIGHT, resume=False)


def test_another_data_set_is_refused_in_a_run_that_began(voice, tmp_path):
    rows = [spoken_row(number) for number in range(1, 15)]
    other = write_set(tmp_path / "other", rows)
    run(voice, tmp_path / "run", max_steps=2, stop_after_s=1e-9)
    with pytest.raises(TrainingError, match=r"got a run with data_hash=\w+ for \w+"):
        run(other, tmp_path / "run", max_steps=2)
    assert run(voice, tmp_path / "run", max_steps=2).done


def test_start_takes_over_weights(voice, tmp_path):
    run(voice, tmp_path / "first", max_steps=3)
    settings = replace(QUICK, max_steps=1, learning_rate=1e-9)
    start = tmp_path / "first/final"
    train_vocoder(voice, settings, tmp_path / "second", config=LIGHT, start=start)
    before = UnitVocoder.from_pretrained(start).state_dict()
    after = UnitVocoder.from_pretrained(tmp_path / "second/final").state_dict()
    assert_close(after, before, atol=1e-6, rtol=0)
    with pytest.raises(ConfigError, match=r"vocoder.generator must be convnext-istft"):
        train_vocoder(voice, settings, tmp_path / "third", config=HIFIGAN, start=start)


def test_start_is_the_same_however_its_place_is_given(voice, tmp_path, monkeypatch):
    start = tmp_path / "start"
    UnitVocoder(LIGHT).save_pretrained(start)
    settings = replace(QUICK, max_steps=2, stop_after_s=1e-9)
    train_vocoder(voice, settings, tmp_path / "run", config=LIGHT, start=start)
    path = tmp_path / "run/settings.json"
    values = json.loads(path.read_text())
    assert values["start"] == str(start.resolve())
    del values["rows_per_step"]  # as an older version wrote it
    path.write_text(json.dumps(values | {"start": "start"}))
    monkeypatch.chdir(tmp_path)
    settings = replace(settings, stop_after_s=0.0)
    result = train_vocoder(voice, settings, Path("run"), config=LIGHT, start=Path("start"))
    assert result.done
    assert json.loads(path.read_text()) == values | {"rows_per_step": 4}
    with pytest.raises(TrainingError, match=r"got a run with start=.*start for None"):
        train_vocoder(voice, settings, tmp_path / "run", config=LIGHT)


def test_start_without_a_vocoder_is_refused(voice, tmp_path):
    with pytest.raises(CheckpointError, match="nowhere"):
        train_vocoder(voice, QUICK, tmp_path / "run", config=LIGHT, start=tmp_path / "nowhere")
    assert not (tmp_path / "run").exists()


def test_other_sample_rate_is_refused(voice, tmp_path):
    config = VocoderConfig(sample_rate=22_050, **SMALL)
    with pytest.raises(ConfigError, match=r"vocoder.sample_rate must be 16000, .* got 22050"):
        run(voice, tmp_path, config=config)


def test_discriminators_judge_and_leave_no_trace_in_the_generators_turn(voice):
    vocoder = UnitVocoder(LIGHT)
    settings = replace(QUICK, adversarial_from=0, discriminator_divisor=16)
    step = VocoderStep(vocoder, settings, alone())
    judges = step._modules["judges"]
    batch = segments_of(voice).batch(2, 15, step=0, part=0)
    before = {name: weight.clone() for name, weight in step.weights().items()}
    numbers = step([batch], learning_rate=1e-3, judged=True)
    assert {"judges", "adversarial", "features"} <= set(numbers)
    changed = {n.split(".")[0] for n, w in step.weights().items() if not torch.equal(w, before[n])}
    assert changed == {"vocoder", "judges"}
    made = torch.randn(2, 4800, requires_grad=True)
    sum(step._judge(made, torch.randn(2, 4800))).backward()
    assert made.grad is not None
    assert all(weight.grad is None for weight in judges.parameters())
    assert all(weight.requires_grad for weight in judges.parameters())
