"""A synthetic voice of six units, each a tone: small vocoders learn it in seconds."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from llama_omni.data.flac import encode_flac
from llama_omni.data.schema import Row, Sound
from llama_omni.data.shards import FORMAT, write_manifest, write_shard
from llama_omni.errors import ConfigError, InputError, TargetError, TrainingError
from llama_omni.model.vocoder import UnitVocoder, VocoderConfig
from llama_omni.train import vocoder_losses as losses
from llama_omni.train.discriminators import Discriminators
from llama_omni.train.processes import Processes
from llama_omni.train.vocoder import train_vocoder
from llama_omni.train.vocoder_data import SegmentBatch, SpeechSegments
from llama_omni.train.vocoder_settings import VocoderSettings, hifigan_settings
from llama_omni.train.vocoder_step import VocoderStep

ROOT = Path(__file__).parents[2]
SMALL = {"num_units": 6, "embedding_dim": 16, "duration_hidden_dim": 8}
LIGHT = VocoderConfig(
    generator="convnext-istft",
    convnext_dim=16,
    convnext_hidden_dim=32,
    convnext_blocks=[1, 1],
    **SMALL,
)
HIFIGAN = VocoderConfig(
    initial_channels=32,
    resblock_kernel_sizes=[3],
    resblock_dilations=[[1]],
    **SMALL,
)
CONFIGS = {"light": LIGHT, "hifigan": HIFIGAN}
QUICK = VocoderSettings(
    steps=20,
    batch_size=4,
    segment_s=0.3,
    learning_rate=3e-3,
    held_out=2,
    samples=1,
    save_every=6,
    eval_every=10,
    log_every=1,
    device="cpu",
    tensorboard=False,
)


def spoken_row(number, *, frames=None, **fields):
    rng = np.random.default_rng(number)
    units = rng.permutation(6)
    durations = rng.integers(2, 7, 6) if frames is None else np.full(6, frames)
    hertz = 150.0 * (1 + np.repeat(units, durations * 320))
    sound = 0.3 * np.sin(2 * np.pi * np.cumsum(hertz) / 16_000) + 0.01 * rng.standard_normal(
        len(hertz)
    )
    flac = Sound(bytes=encode_flac(sound.astype(np.float32)), path="a.flac")
    plain = {
        "id": f"row-{number}",
        "split": "train",
        "source": "test",
        "intent": None,
        "question": "q",
        "question_audio": flac,
        "question_voice": "a",
        "question_s": 0.1,
        "answer": "a",
        "answer_audio": flac,
        "answer_voice": "b",
        "answer_s": len(sound) / 16_000,
        "units": units.tolist(),
        "durations": durations.tolist(),
    }
    return Row(**{**plain, **fields})


def write_set(folder, rows):
    shard = write_shard(folder, "data/train-00000.parquet", "train", rows)
    write_manifest(folder, {"format": FORMAT, "shards": [asdict(shard)]})
    return folder


@pytest.fixture(scope="module")
def voice(tmp_path_factory) -> Path:
    """A data set of 14 answers, two without units or sound."""
    rows = [spoken_row(number) for number in range(12)]
    rows += [spoken_row(12, units=None, durations=None), spoken_row(13, answer_audio=None)]
    return write_set(tmp_path_factory.mktemp("voice"), rows)


def run(voice, output, settings=QUICK, config=LIGHT, **changes):
    return train_vocoder(voice, replace(settings, **changes), output, config=config)


def lines(output):
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def losses_of(output):
    return [row["loss"] for row in lines(output) if "loss" in row]


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
    step = VocoderStep(vocoder, QUICK, _alone())
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


def test_weight_norm_belongs_to_hifigan_alone():
    for kind, config in CONFIGS.items():
        vocoder = UnitVocoder(config)
        VocoderStep(vocoder, QUICK, _alone())
        has = any("parametrizations" in name for name, _ in vocoder.generator.named_parameters())
        assert has == (kind == "hifigan")


def _alone():
    return Processes(rank=0, world=1, device=torch.device("cpu"))


@pytest.mark.parametrize("judged_from", [None, 3], ids=["plain", "adversarial"])
def test_stopped_run_goes_on_with_identical_losses(voice, tmp_path, judged_from, small_judges):
    changes = {"steps": 8, "eval_every": 4, "adversarial_from": judged_from}
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


@pytest.fixture
def small_judges(monkeypatch):
    monkeypatch.setattr(
        "llama_omni.train.vocoder_step.Discriminators", lambda: Discriminators(divisor=16)
    )


KILLED = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.train.test_vocoder_training import QUICK, run
run(Path(sys.argv[1]), Path(sys.argv[2]), steps=60, save_every=7)
"""


def test_killed_run_goes_on_with_identical_losses(voice, tmp_path):
    run(voice, tmp_path / "whole", steps=60, save_every=7)
    output = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", KILLED, voice, output], cwd=ROOT)
    try:
        for _ in range(2400):
            if list(output.glob("checkpoints/step-*/COMPLETE")) and len(losses_of(output)) > 16:
                break
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    half = output / "checkpoints" / "step-00000058"
    half.mkdir()
    (half / "weights.pt").write_bytes(b"cut")
    result = run(voice, output, steps=60, save_every=7)
    assert result.done
    assert losses_of(output) == losses_of(tmp_path / "whole")


def test_accumulation_equals_the_large_batch(voice):
    """With what is a mean over rows: mel and durations; not the spectral convergence."""
    segments = _segments(voice)
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
        step = VocoderStep(UnitVocoder(without_dropout(LIGHT)), settings, _alone())
        numbers = step(batches, learning_rate=1e-3, judged=False)
        weights.append((numbers, step.weights()))
    (one, whole), (two, parts) = weights
    assert two == pytest.approx(one, rel=1e-4)
    assert_close(parts, whole, atol=1e-5, rtol=0)


def without_dropout(config):
    fields = config.to_diff_dict() | {"duration_dropout": 0.0}
    return VocoderConfig(**{k: v for k, v in fields.items() if k in vars(VocoderConfig())})


def _segments(voice, cache=None, **changes):
    asked = {"num_units": 6, "hop": 320, "max_hours": 1.0, "held_out": 2, "seed": 0}
    return SpeechSegments(voice, cache or voice / "cache", **(asked | changes))


def test_segments_hang_on_seed_step_and_part_alone(voice):
    first, again = _segments(voice), _segments(voice)
    one, two = first.batch(4, 10, step=5, part=0), again.batch(4, 10, step=5, part=0)
    assert one.ids == two.ids
    assert torch.equal(one.sound, two.sound)
    assert torch.equal(one.frames, two.frames)
    others = [first.batch(4, 10, step=6, part=0), first.batch(4, 10, step=5, part=1)]
    assert all(not torch.equal(one.sound, other.sound) for other in others)
    held = {first.ids[place] for place in first.held_out}
    drawn = {name for step in range(50) for name in first.batch(4, 10, step=step, part=0).ids}
    assert len(held) == 2
    assert drawn == set(first.ids) - held
    assert len(first.ids) == 12  # those without units or sound are left out


def test_units_and_sound_of_a_segment_belong_together(voice):
    segments = _segments(voice)
    batch = segments.batch(8, 4, step=0, part=0)
    for row in range(8):
        tones = batch.sound[row].reshape(4, 320)
        loudest = torch.fft.rfft(tones * torch.hann_window(320)).abs().argmax(dim=1)  # 50 Hz bins
        assert loudest.tolist() == (3 * (1 + batch.frames[row])).tolist()


def test_short_answers_are_filled_with_silence(tmp_path):
    rows = [spoken_row(number, frames=1 + 2 * (number == 0)) for number in range(4)]
    segments = _segments(write_set(tmp_path, rows))
    batch = segments.batch(6, 15, step=0, part=0)
    assert batch.lengths is not None
    for row, length in enumerate(batch.lengths.tolist()):
        assert length == (15 if batch.ids[row] == "row-0" else 6)
        assert not batch.sound[row, length * 320 :].any()
    vocoder = UnitVocoder(LIGHT)
    assert vocoder.generate(batch.frames, batch.lengths).shape == batch.sound.shape


def test_no_more_hours_than_asked(voice, tmp_path):
    few = _segments(voice, tmp_path / "few", max_hours=3 / 3600)
    again = _segments(voice, tmp_path / "few", max_hours=3 / 3600)
    assert 2 <= len(few.ids) < 12
    assert few.ids == again.ids
    assert len(_segments(voice, tmp_path / "few").ids) == 12  # another choice unpacks anew


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ([spoken_row(0, units=None)], InputError, "must hold at least 2 answers with sound and u"),
        (
            [spoken_row(0), spoken_row(1, units=[1, 3, 2], durations=[1, 1, 1])],
            TargetError,
            "'row-1' must have units for its whole sound, got 0.06 s of",
        ),
        (
            [spoken_row(0, units=[0, 1, 2, 3, 4, 6]), spoken_row(1)],
            TargetError,
            "units of 'row-0' must be below 6, got 6; set the vocoder's num_units",
        ),
        (
            [spoken_row(0, frames=4, durations=[4, 4, 4, 4, 4, 4, 0]), spoken_row(1)],
            TargetError,
            "'row-0' must have a duration of at least 1 for each unit",
        ),
    ],
    ids=["no-units", "units-too-short", "unit-too-large", "durations-not-one-a-unit"],
)
def test_answers_that_cannot_be_learnt_are_named(tmp_path, rows, error, message):
    with pytest.raises(error, match=message):
        _segments(write_set(tmp_path, rows))


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
    step = VocoderStep(vocoder, QUICK, _alone())
    vocoder.embedding.weight.register_hook(lambda grad: grad * float("inf"))
    batch = _segments(voice).batch(2, 10, step=0, part=0)
    before = vocoder.generator.head.weight.clone()
    with pytest.raises(TrainingError, match="gradient of the vocoder must be a finite number"):
        step([batch], learning_rate=1e-3, judged=False)
    assert torch.equal(vocoder.generator.head.weight, before)


def test_another_runs_folder_is_refused(voice, tmp_path):
    run(voice, tmp_path, steps=2)
    with pytest.raises(TrainingError, match=r"got a run with learning_rate=0.003 for 0.1"):
        run(voice, tmp_path, steps=2, learning_rate=0.1)
    with pytest.raises(
        TrainingError, match=r"got a run with vocoder.generator=convnext-istft for hifigan"
    ):
        run(voice, tmp_path, steps=2, config=HIFIGAN)
    run(voice, tmp_path, steps=2, log_every=2, save_every=9)
    settings = replace(QUICK, steps=2)
    with pytest.raises(TrainingError, match=r"must be a new folder, got a run with settings.json"):
        train_vocoder(voice, settings, tmp_path, config=LIGHT, resume=False)


def test_start_takes_over_weights(voice, tmp_path):
    run(voice, tmp_path / "first", steps=3)
    settings = replace(QUICK, steps=1, learning_rate=1e-9)
    start = tmp_path / "first/final"
    train_vocoder(voice, settings, tmp_path / "second", config=LIGHT, start=start)
    before = UnitVocoder.from_pretrained(start).state_dict()
    after = UnitVocoder.from_pretrained(tmp_path / "second/final").state_dict()
    assert_close(after, before, atol=1e-6, rtol=0)
    with pytest.raises(ConfigError, match=r"vocoder.generator must be convnext-istft"):
        train_vocoder(voice, settings, tmp_path / "third", config=HIFIGAN, start=start)


def test_other_sample_rate_is_refused(voice, tmp_path):
    config = VocoderConfig(sample_rate=22_050, **SMALL)
    with pytest.raises(ConfigError, match=r"vocoder.sample_rate must be 16000, .* got 22050"):
        run(voice, tmp_path, config=config)


def test_discriminators_judge_and_leave_no_trace_in_the_generators_turn(voice, small_judges):
    vocoder = UnitVocoder(LIGHT)
    settings = replace(QUICK, adversarial_from=0)
    step = VocoderStep(vocoder, settings, _alone())
    judges = step._modules["judges"]
    batch = _segments(voice).batch(2, 15, step=0, part=0)
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


def test_discriminators_are_the_papers():
    with torch.device("meta"):
        judges = Discriminators()
    # HiFi-GAN's code: 41.1 M by period, 29.6 M by scale (weight norm's sizes counted).
    assert sum(p.numel() for p in judges.by_period.parameters()) == pytest.approx(41.1e6, rel=0.01)
    assert sum(p.numel() for p in judges.by_scale.parameters()) == pytest.approx(29.6e6, rel=0.01)
    found = Discriminators(divisor=16)(torch.randn(2, 3001))
    assert len(found) == 8
    assert [len(features) for _, features in found] == [6] * 5 + [8] * 3


def test_losses_are_zero_for_the_same_sound_and_grow_with_the_difference():
    real = 0.1 * torch.randn(2, 8000)
    mel = losses.MelDistance(16_000)
    near, far = real + 0.01 * torch.randn(2, 8000), real + 0.1 * torch.randn(2, 8000)
    for distance in (mel, losses.stft_distance):
        assert distance(real, real) == 0
        assert 0 < distance(near, real) < distance(far, real)
    assert mel(0.5 * real, real) == pytest.approx(np.log(2), rel=1e-3)


def test_duration_loss_sees_real_units_alone():
    durations = torch.tensor([[3, 1, 0], [2, 2, 2]])
    exact = durations.float().log1p()
    exact[0, 2] = 99.0
    assert losses.duration_distance(exact, durations, durations > 0) == 0


def test_silence_gives_finite_gradients():
    made = torch.zeros(1, 4000, requires_grad=True)
    real = torch.zeros(1, 4000)
    (losses.MelDistance(16_000)(made, real) + losses.stft_distance(made, real)).backward()
    assert made.grad.isfinite().all()


def test_rate_warms_up_then_falls():
    cosine = VocoderSettings(steps=100, learning_rate=1.0, warmup_ratio=0.1)
    rates = [cosine.rate(step, 0) for step in range(100)]
    assert rates[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert max(rates) == rates[9] == 1.0
    assert rates[-1] < 0.001
    paper = hifigan_settings()
    assert paper.rate(10_000, 100) == pytest.approx(2e-4 * 0.999**100)
    assert (paper.mel_weight, paper.feature_weight, paper.beta1) == (45.0, 2.0, 0.8)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 0}, "steps must be above 0, got 0"),
        ({"mel_weight": -1.0}, "mel_weight must be at least 0, got -1.0"),
        ({"beta1": 1.0}, r"beta1 must be in \[0, 1\), got 1.0"),
        ({"decay": 0.0}, r"decay must be in \(0, 1\], got 0.0"),
        ({"adversarial_from": -1}, "adversarial_from must be at least 0, got -1"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0, got nan"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_impossible_settings_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        VocoderSettings(**fields)
