"""Vocoder training: a generator of either kind and its durations, from a data set's answers.

Unusual: nothing but weights and optimisers needs saving to go on exactly. Segments, dropout and the
learning rate hang on the seed and the step alone. Discriminators, where used, learn beside the
generator from the same sounds. Weight norm belongs to HiFi-GAN's training; what is saved for
use has it folded.
"""

import json
import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from llama_omni.audio import SAMPLE_RATE, save
from llama_omni.errors import ConfigError, MissingExtraError, TrainingError
from llama_omni.model.hifigan import HifiGan
from llama_omni.model.vocoder import UnitVocoder, VocoderConfig
from llama_omni.train import vocoder_losses as losses
from llama_omni.train.discriminators import Discriminators
from llama_omni.train.vocoder_data import SegmentBatch, SpeechSegments, Spoken
from llama_omni.train.vocoder_settings import VocoderSettings
from llama_omni.train.vocoder_state import RunFolder


@dataclass(frozen=True, kw_only=True, slots=True)
class VocoderResult:
    """How a run ended."""

    step: int
    metrics: dict[str, float]  # of the last evaluation
    best: dict[str, float]  # the evaluation with the lowest mel distance, and its step


def train_vocoder(
    folder: Path,
    settings: VocoderSettings,
    output: Path,
    *,
    config: VocoderConfig,
    start: Path | None = None,
    resume: bool = True,
) -> VocoderResult:
    """Train a vocoder on a data set's spoken answers and their units.

    Args:
        folder: a data set with units; see `SpeechDataset`.
        settings: `VocoderSettings()` for the light generator, `hifigan_settings()` for the other.
        output: gets final/ and best/ (for `UnitVocoder.from_pretrained`), samples/, metrics.jsonl,
            tensorboard/, done.json and checkpoints/.
        config: the vocoder's.
        start: a vocoder folder whose weights to begin with, of the same configuration.
        resume: go on from the newest whole checkpoint in `output`, exactly.

    Raises:
        ConfigError: the configuration cannot be trained, or differs from the run's so far.
        InputError: the data set has no answers with units.
        TargetError: an answer's units do not fit the vocoder or its sound; names it.
        TrainingError: a loss is no number; names the step and the answers.
    """
    if config.sample_rate != SAMPLE_RATE:
        raise ConfigError(
            f"vocoder.sample_rate must be {SAMPLE_RATE}, the data set's, got {config.sample_rate}"
        )
    run = _Run(folder, settings, output, config=config, start=start, resume=resume)
    return run.train()


class _Trainee(nn.Module):
    """One forward pass for both halves of a vocoder, so that data parallelism sees one module."""

    def __init__(self, vocoder: UnitVocoder) -> None:
        super().__init__()
        self.vocoder = vocoder

    def forward(self, batch: SegmentBatch, real: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B, S) sound and (B, U) log durations."""
        embedded = self.vocoder.embedding(batch.units)
        log_durations = self.vocoder.duration_predictor(embedded, real.sum(dim=1))
        return self.vocoder.generate(batch.frames, batch.lengths), log_durations


class _Run:
    def __init__(
        self,
        folder: Path,
        settings: VocoderSettings,
        output: Path,
        *,
        config: VocoderConfig,
        start: Path | None,
        resume: bool,
    ) -> None:
        self.settings, self.output = settings, output
        self.devices = _accelerator(settings.precision)
        torch.manual_seed(settings.seed)
        vocoder = UnitVocoder(config) if start is None else UnitVocoder.from_pretrained(start)
        if isinstance(vocoder.generator, HifiGan):
            _add_weight_norm(vocoder.generator)
        self.vocoder, self.hop = vocoder.to(self.devices.device), vocoder.hop
        self.mel = losses.MelDistance(config.sample_rate).to(self.devices.device)
        with self.devices.main_process_first():
            self.segments = SpeechSegments(
                folder,
                output / "cache",
                num_units=config.num_units,
                hop=self.hop,
                max_hours=settings.max_hours,
                held_out=settings.held_out,
                seed=settings.seed,
            )
        self.frames = round(settings.segment_s * config.sample_rate / self.hop)
        described = asdict(settings) | {"vocoder": config.to_diff_dict(), "start": str(start)}
        with self.devices.main_process_first():
            self.files = RunFolder(output, described, resume=resume or not self._is_main)
            state = self.files.load()
        self.step, self.best = 0, {}
        self._prepare(state)
        self.board = _tensorboard(output, self.step) if self._is_main else None

    @property
    def _is_main(self) -> bool:
        return self.devices.is_main_process

    def _prepare(self, state: dict[str, Any] | None) -> None:
        """Build optimisers, fill everything from a checkpoint, and spread it over devices."""
        judges = Discriminators() if self.settings.is_adversarial else None
        self.plain_judges = None if judges is None else judges.to(self.devices.device)
        modules = [_Trainee(self.vocoder), *([judges] if judges is not None else [])]
        optimisers = [self._optimiser(module) for module in modules]
        if state is not None:
            self.step, self.best = state["step"], state["best"]
            for module, weights in zip(modules, state["modules"], strict=True):
                module.load_state_dict(weights)
            for optimiser, moments in zip(optimisers, state["optimisers"], strict=True):
                optimiser.load_state_dict(moments)
        self.modules, self.optimisers = modules, optimisers
        prepared = [self.devices.prepare(module) for module in modules]
        self.trainee, self.judges = prepared[0], prepared[1] if judges is not None else None

    def _optimiser(self, module: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            module.parameters(),
            lr=self.settings.learning_rate,
            betas=(self.settings.beta1, self.settings.beta2),
            weight_decay=self.settings.weight_decay,
        )

    def train(self) -> VocoderResult:
        settings, metrics = self.settings, {}
        columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
        text = TextColumn("loss {task.fields[loss]:.3f}")
        with Progress(*columns, text, disable=not self._is_main) as progress:
            task = progress.add_task(
                "vocoder", total=settings.steps, completed=self.step, loss=math.nan
            )
            while self.step < settings.steps:
                numbers = self._train_step()
                self.step += 1
                progress.update(task, advance=1, loss=numbers["loss"])
                last = self.step == settings.steps
                if last or self.step % settings.log_every == 0:
                    self._log(numbers)
                if last or self.step % settings.eval_every == 0:
                    metrics = self._evaluate()
                if last or self.step % settings.save_every == 0:
                    self._save()
        return self._finish(metrics or self._evaluate())

    def _train_step(self) -> dict[str, float]:
        settings, judged = self.settings, self._judged
        rate = self._learning_rate()
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
        sums: dict[str, Tensor] = {}
        ids: list[str] = []
        for turn in range(settings.accumulation):
            part = turn * self.devices.num_processes + self.devices.process_index
            batch = self._batch(part)
            ids += batch.ids
            with ExitStack() as stack:
                if turn < settings.accumulation - 1:
                    for module in (self.trainee, *([self.judges] if judged else [])):
                        stack.enter_context(self.devices.no_sync(module))
                found = self._losses(batch)
            for name, value in found.items():
                value = value.detach()
                sums[name] = sums.get(name, torch.zeros_like(value)) + value / settings.accumulation
        together = torch.stack([value.float() for value in sums.values()])
        means: list[float] = self.devices.reduce(together, reduction="mean").tolist()
        numbers = dict(zip(sums, means, strict=True))
        norms = [
            float(nn.utils.clip_grad_norm_(module.parameters(), settings.max_grad_norm))
            for module in self.modules[: 1 + judged]
        ]
        self._check(numbers | {"gradient": sum(norms)}, ids)
        for optimiser in self.optimisers[: 1 + judged]:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        return numbers | {"gradient": norms[0], "lr": rate}

    def _batch(self, part: int) -> SegmentBatch:
        """Draw segments, and seed dropout alike: both hang on the step, not on what came before."""
        settings = self.settings
        seeds = np.random.SeedSequence([settings.seed, 3, self.step, part]).generate_state(1)
        torch.manual_seed(int(seeds[0]))
        batch = self.segments.batch(settings.batch_size, self.frames, step=self.step, part=part)
        return batch.to(self.devices.device)

    def _losses(self, batch: SegmentBatch) -> dict[str, Tensor]:
        """Add one batch's gradients; return its losses."""
        settings = self.settings
        real = batch.durations > 0  # (B, U)
        with self.devices.autocast():
            sound, log_durations = self.trainee(batch, real)
        sound = sound.float()
        found = {
            "mel": self.mel(sound, batch.sound),
            "durations": losses.duration_distance(log_durations, batch.durations, real),
        }
        total = settings.mel_weight * found["mel"] + settings.duration_weight * found["durations"]
        if settings.stft_weight:
            found["stft"] = losses.stft_distance(sound, batch.sound)
            total = total + settings.stft_weight * found["stft"]
        if self._judged:
            found["judges"] = self._teach_judges(sound.detach(), batch.sound)
            found["adversarial"], found["features"] = self._judge(sound, batch.sound)
            total = total + found["adversarial"] + settings.feature_weight * found["features"]
        self.devices.backward(total / settings.accumulation)
        return {"loss": total} | found

    @property
    def _judged(self) -> bool:
        begin = self.settings.adversarial_from
        return self.judges is not None and begin is not None and self.step >= begin

    def _teach_judges(self, made: Tensor, real: Tensor) -> Tensor:
        assert self.judges is not None
        with self.devices.autocast():
            judgements = self.judges(torch.cat([made, real]))
        half = [
            [(score[rows], [each[rows] for each in features]) for score, features in judgements]
            for rows in (slice(len(made)), slice(len(made), None))
        ]
        loss = losses.discriminator_loss(half[0], half[1])
        self.devices.backward(loss / self.settings.accumulation)
        return loss

    def _judge(self, made: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the generator pays; no gradient is left in the judges."""
        assert self.plain_judges is not None
        self.plain_judges.requires_grad_(False)
        with self.devices.autocast():
            ours = self.plain_judges(made)
            with torch.no_grad():
                theirs = self.plain_judges(real)
        self.plain_judges.requires_grad_(True)
        return losses.generator_loss(ours), losses.feature_distance(ours, theirs)

    def _learning_rate(self) -> float:
        settings = self.settings
        if settings.schedule == "exponential":
            rows = settings.batch_size * settings.accumulation * self.devices.num_processes
            return settings.learning_rate * settings.decay ** (
                self.step * rows // len(self.segments)
            )
        warm = max(1, round(settings.warmup_ratio * settings.steps))
        if self.step < warm:
            return settings.learning_rate * (self.step + 1) / warm
        done = (self.step - warm) / max(1, settings.steps - warm)
        return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done))

    def _check(self, numbers: Mapping[str, float], ids: list[str]) -> None:
        for name, value in numbers.items():
            if not math.isfinite(value):
                raise TrainingError(
                    f"{name} must be a finite number, got {value} at step {self.step + 1} on the "
                    f"answers {', '.join(dict.fromkeys(ids))}; try a lower learning_rate, a lower "
                    "max_grad_norm, or precision float32, and go on from the last checkpoint"
                )

    @torch.no_grad()
    def _evaluate(self) -> dict[str, float]:
        """Speak held-out answers with their true durations; keep the vocoder if it is the best."""
        metrics: dict[str, float] = {}
        if self._is_main:
            self.vocoder.eval()
            rows = [self.segments.spoken(place) for place in self.segments.held_out]
            exact = total = 0
            distance = seconds = 0.0
            for place, row in enumerate(rows):
                durations, made = self._speak(row)
                exact += int((durations == row.durations).sum())
                total += len(durations)
                real = row.sound[None].to(made.device)
                distance += float(self.mel(made[None], real)) * len(row.sound)
                seconds += len(row.sound)
                if place < self.settings.samples:
                    self._write_sample(row, durations)
            metrics = {"mel_l1": distance / seconds, "durations_exact": exact / total}
            self._log(metrics, prefix="held_out_")
            if not self.best or metrics["mel_l1"] < self.best["mel_l1"]:
                self.best = {"step": self.step} | metrics
                _folded(self.vocoder).save_pretrained(self.output / "best")
            self.vocoder.train()
        return metrics

    def _speak(self, row: Spoken) -> tuple[Tensor, Tensor]:
        """Return predicted durations, and the sound with the true ones."""
        units = row.units.to(self.devices.device)
        durations = self.vocoder.durations(units[None])[0].cpu()
        frames = torch.repeat_interleave(row.units, row.durations).to(units.device)
        return durations, self.vocoder.generate(frames[None])[0].float()

    def _write_sample(self, row: Spoken, durations: Tensor) -> None:
        """Write it as it will be spoken, with predicted durations, beside the original."""
        frames = torch.repeat_interleave(row.units, durations).to(self.devices.device)
        sound = self.vocoder.generate(frames[None])[0].float().cpu()
        name = "".join(c if c.isalnum() or c in "-_" else "_" for c in row.id)
        for kind, samples in (("original", row.sound), (f"step-{self.step:08d}", sound)):
            place = self.output / "samples" / kind / f"{name}.wav"
            place.parent.mkdir(parents=True, exist_ok=True)
            save(place, samples.numpy(), SAMPLE_RATE)

    def _log(self, numbers: Mapping[str, float], prefix: str = "") -> None:
        if self._is_main:
            named = {f"{prefix}{name}": value for name, value in numbers.items()}
            self.files.log(self.step, named)
            for name, value in named.items():
                if self.board is not None:
                    self.board.add_scalar(f"vocoder/{name}", value, self.step)

    def _save(self) -> None:
        if self._is_main:
            state = {
                "step": self.step,
                "best": self.best,
                "modules": [module.state_dict() for module in self.modules],
                "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            }
            self.files.save(state, keep=self.settings.keep)
        self.devices.wait_for_everyone()

    def _finish(self, metrics: dict[str, float]) -> VocoderResult:
        if self._is_main:
            _folded(self.vocoder).save_pretrained(self.output / "final")
            done = {"step": self.step, "metrics": metrics, "best": self.best}
            (self.output / "done.json").write_text(json.dumps(done, indent=1) + "\n")
        if self.board is not None:
            self.board.close()
        self.devices.wait_for_everyone()
        return VocoderResult(step=self.step, metrics=metrics, best=self.best)


def _add_weight_norm(generator: HifiGan) -> None:
    """Learn each convolution's size and direction apart, as the released ones were."""
    for module in list(generator.modules()):
        if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
            weight_norm(module)


@torch.no_grad()
def _folded(vocoder: UnitVocoder) -> UnitVocoder:
    """Return a copy for use: on the CPU, in evaluation mode, without weight norm."""
    plain = UnitVocoder(vocoder.config)
    for name, target in plain.state_dict().items():
        source: Any = vocoder
        for part in name.split("."):
            source = getattr(source, part)
        target.copy_(source)
    return plain.eval()


def _accelerator(precision: str) -> Any:
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise MissingExtraError("accelerate", "train", "vocoder training") from error
    return Accelerator(mixed_precision="bf16" if precision == "bf16" else "no")


def _tensorboard(output: Path, step: int) -> Any:
    """Return a writer of curves, or None where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(output / "tensorboard"), purge_step=step)
