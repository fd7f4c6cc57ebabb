"""Vocoder training: a generator of either kind and its durations, from a data set's answers.

Unusual: to go on exactly, nothing but weights and optimisers needs saving. Segments, dropout and
the learning rate hang on the seed and the step alone. The loop is apart from `runner.train`, for
two sides with an optimiser each play against each other here.
"""

import inspect
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from llama_omni.audio import SAMPLE_RATE, save
from llama_omni.checkpoint.native import load_vocoder, quiet_transformers
from llama_omni.errors import ConfigError, TrainingError
from llama_omni.files import write_text
from llama_omni.model.vocoder import UnitVocoder, VocoderConfig
from llama_omni.train.checkpoints import Checkpoints, write_folder
from llama_omni.train.processes import set_up
from llama_omni.train.run_folder import read_settings, settle
from llama_omni.train.stop_signals import watch_signals
from llama_omni.train.tracking import Tracking
from llama_omni.train.vocoder_data import SegmentBatch, SpeechSegments, Spoken, identity
from llama_omni.train.vocoder_settings import FREE_TO_CHANGE, VocoderSettings
from llama_omni.train.vocoder_step import VocoderStep
from llama_omni.train.writing import writing


@dataclass(frozen=True, kw_only=True, slots=True)
class VocoderResult:
    """Where a run stands when `train_vocoder` returns."""

    step: int
    done: bool  # False: `stop_after_s` ended this call; call again to go on
    metrics: dict[str, float]  # of the last evaluation
    best: dict[str, int | float]  # the evaluation with the lowest mel distance, and its step


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

    SIGINT and SIGTERM save a checkpoint and then raise KeyboardInterrupt, a second one at once.

    Args:
        folder: a data set with units; see `SpeechDataset`.
        settings: `VocoderSettings()` for the light generator, `hifigan_settings()` for the other.
        output: gets final/ and best/ (for `UnitVocoder.from_pretrained`), samples/, metrics.jsonl,
            tensorboard/, settings.json, done.json, checkpoints/ and cache/ (may be deleted).
        config: the vocoder's.
        start: a vocoder folder whose weights to begin with, of the same configuration.
        resume: go on exactly from the newest whole checkpoint; False refuses a folder in use.

    Raises:
        ConfigError: the configuration cannot be trained on this data, or is not that of `start`.
        CheckpointError: `start` holds no whole vocoder.
        InputError: the data set has no answers with units.
        TargetError: an answer's units do not fit the vocoder or its sound; names it.
        TrainingError: a loss is no number (names step and answers), or the folder is another run's.
        OutputError: something cannot be written; the last checkpoint stays.
    """
    if config.sample_rate != SAMPLE_RATE:
        raise ConfigError(
            f"vocoder.sample_rate must be {SAMPLE_RATE}, the data set's, got {config.sample_rate}"
        )
    output = Path(output)
    with writing(output):
        return _Run(Path(folder), settings, output, config, start, resume).go()


class _Run:
    def __init__(
        self,
        folder: Path,
        settings: VocoderSettings,
        output: Path,
        config: VocoderConfig,
        start: Path | None,
        resume: bool,
    ) -> None:
        self.settings, self.output = settings, output
        self.processes = set_up(settings.device)
        self._started = time.monotonic()
        torch.manual_seed(settings.seed)
        self.vocoder = UnitVocoder(config) if start is None else _begin_with(start, config)
        self.vocoder.to(self.processes.device)  # pyright: ignore[reportArgumentType]
        self._settle(config, start, resume, identity(folder))
        self.segments = self._segments(folder)
        self.frames = round(settings.segment_s * config.sample_rate / self.vocoder.hop)
        self.learn = VocoderStep(self.vocoder, settings, self.processes)
        self.checkpoints = Checkpoints(
            output / "checkpoints", keep=settings.keep, processes=self.processes
        )
        self.step = 0
        self.best: dict[str, int | float] = {}
        self.metrics: dict[str, float] = {}
        if path := self.processes.from_main(self.checkpoints.newest()):
            loaded = self.checkpoints.load(path)
            self.learn.restore(loaded["weights"], loaded["optimizer"])
            state = loaded["state"]
            self.step, self.best, self.metrics = state["step"], state["best"], state["metrics"]
        self.tracking = Tracking(
            output,
            step=self.step,
            max_steps=settings.max_steps,
            tensorboard=settings.tensorboard,
            silent=not self.processes.is_main,
        )

    def _settle(self, config: VocoderConfig, start: Path | None, resume: bool, data: str) -> None:
        """Refuse a folder of another run; note this run's settings."""
        settings, before = self.settings, read_settings(self.output)
        if before.get("start", "None") != "None":  # as given, in a folder of an older version
            before["start"] = str(Path(before["start"]).resolve())
        if before:
            before.setdefault("discriminator_divisor", 1)
        values = asdict(settings)
        fixed = {name: value for name, value in values.items() if name not in FREE_TO_CHANGE}
        fixed |= {f"vocoder.{name}": value for name, value in _fields(config).items()}
        fixed["start"] = str(start if start is None else Path(start).resolve())
        rows = settings.batch_size * settings.accumulation * self.processes.world
        fixed |= {"rows_per_step": rows, "data_hash": data}
        settle(
            self.output,
            before=before,
            fixed=fixed,
            noted=values,
            processes=self.processes,
            resume=resume,
        )

    def _segments(self, folder: Path) -> SpeechSegments:
        """Unpack the sound on rank 0, then map it into memory everywhere."""
        if not self.processes.is_main:
            self.processes.wait()
        segments = SpeechSegments(
            folder,
            self.output / "cache",
            num_units=self.vocoder.num_units,
            hop=self.vocoder.hop,
            max_hours=self.settings.max_hours,
            held_out=self.settings.held_out,
            seed=self.settings.seed,
        )
        if self.processes.is_main:
            self.processes.wait()
        return segments

    def go(self) -> VocoderResult:
        """Train to the end, or to the end of this call's time."""
        settings = self.settings
        late = signalled = False
        with self.tracking.open(), watch_signals() as signals:
            self.vocoder.train()
            while self.step < settings.max_steps and not (late or signalled):
                numbers = self._one_step()
                self.step += 1
                late, signalled = self._is_late(), self.processes.any(bool(signals))
                last = self.step == settings.max_steps
                self.tracking.advance(self.step)
                if last or self.step % settings.log_every == 0:
                    self.tracking.write(self.step, numbers)
                if last or self.step % settings.eval_every == 0:
                    self._evaluate()
                if last or late or signalled or self.step % settings.save_every == 0:
                    self._save()
        self.vocoder.eval()
        done = self.step == settings.max_steps
        if signalled and not done:
            raise KeyboardInterrupt
        if done:
            self._finish()
        return VocoderResult(step=self.step, done=done, metrics=self.metrics, best=self.best)

    def _one_step(self) -> dict[str, float]:
        settings = self.settings
        rows = settings.batch_size * settings.accumulation * self.processes.world
        batches = [self._batch(turn) for turn in range(settings.accumulation)]
        begin = settings.adversarial_from
        try:
            return self.learn(
                batches,
                learning_rate=settings.rate(self.step, self.step * rows // len(self.segments)),
                judged=settings.is_adversarial and begin is not None and self.step >= begin,
            )
        except TrainingError as error:
            raise TrainingError(f"step {self.step + 1}: {error}") from error

    def _batch(self, turn: int) -> SegmentBatch:
        """Draw segments, and seed dropout alike: both hang on the step, not on what came before."""
        settings = self.settings
        part = turn * self.processes.world + self.processes.rank
        seeds = np.random.SeedSequence([settings.seed, 3, self.step, part]).generate_state(1)
        torch.manual_seed(int(seeds[0]))
        batch = self.segments.batch(settings.batch_size, self.frames, step=self.step, part=part)
        return batch.to(self.processes.device)

    def _is_late(self) -> bool:
        limit = self.settings.stop_after_s
        late = bool(limit) and time.monotonic() - self._started > limit
        return any(self.processes.gather(late)) if limit else False

    @torch.no_grad()
    def _evaluate(self) -> None:
        """Speak held-out answers with their true durations; keep the vocoder if it is the best."""
        if self.processes.is_main:
            self.vocoder.eval()
            exact = units = samples = 0
            distance = 0.0
            for number, place in enumerate(self.segments.held_out):
                row = self.segments.spoken(place)
                durations = self._durations(row)
                made = self._speak(row.units, row.durations)
                distance += float(self.learn.mel(made[None], row.sound[None].to(made.device)))
                exact += int((durations == row.durations).sum())
                units += len(durations)
                samples += 1
                if number < self.settings.samples:
                    self._write_sample(row, self._speak(row.units, durations))
            self.metrics = {"mel_l1": distance / samples, "durations_exact": exact / units}
            self.tracking.write(
                self.step, {f"eval_{name}": value for name, value in self.metrics.items()}
            )
            if not self.best or self.metrics["mel_l1"] < self.best["mel_l1"]:
                self.best = {"step": self.step} | self.metrics
                self._write_product("best")
            self.vocoder.train()
        self.processes.wait()

    def _durations(self, row: Spoken) -> Tensor:
        return self.vocoder.durations(row.units[None].to(self.vocoder.device))[0].cpu()

    def _speak(self, units: Tensor, durations: Tensor) -> Tensor:
        frames = torch.repeat_interleave(units, durations)[None]  # (1, F)
        return self.vocoder.generate(frames.to(self.vocoder.device))[0].float()

    def _write_sample(self, row: Spoken, made: Tensor) -> None:
        """Write it as it will be spoken, with predicted durations, beside the original."""
        name = "".join(c if c.isalnum() or c in "-_" else "_" for c in row.id)
        for kind, sound in (("original", row.sound), (f"step-{self.step:08d}", made.cpu())):
            place = self.output / "samples" / kind
            place.mkdir(parents=True, exist_ok=True)
            save(place / f"{name}.wav", sound.numpy(), SAMPLE_RATE)

    def _write_product(self, name: str) -> None:
        product = self.learn.product()
        with quiet_transformers():
            write_folder(self.output / name, product.save_pretrained)

    def _save(self) -> None:
        state: Mapping[str, object] = {
            "step": self.step,
            "best": self.best,
            "metrics": self.metrics,
        }
        self.checkpoints.save(
            self.step,
            weights=self.learn.weights(),
            optimizer=self.learn.optimiser_states(),
            state=dict(state),
        )

    def _finish(self) -> None:
        if self.processes.is_main:
            self._write_product("final")
            done = {"step": self.step, "metrics": self.metrics, "best": self.best}
            write_text(self.output / "done.json", json.dumps(done, indent=1) + "\n")
        self.processes.wait()


def _begin_with(start: Path, config: VocoderConfig) -> UnitVocoder:
    vocoder = load_vocoder(start, dtype=torch.float32)
    now = _fields(config)
    for name, value in _fields(vocoder.config).items():
        if value != now[name]:
            raise ConfigError(f"vocoder.{name} must be {value}, that of {start}, got {now[name]}")
    return vocoder


def _fields(config: VocoderConfig) -> dict[str, object]:
    """Return the vocoder's own fields, without what Transformers keeps beside them."""
    names = [name for name in inspect.signature(VocoderConfig).parameters if name != "kwargs"]
    return {name: getattr(config, name) for name in names}
