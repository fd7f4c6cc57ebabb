"""One step of vocoder training: the generator and its durations, and discriminators beside them.

Unusual: the discriminators learn from the same sounds that the generator is judged by, before
either takes its step; so each sound is made once, and steps over several batches need no second
pass.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from llama_omni.errors import TrainingError
from llama_omni.model.hifigan import HifiGan
from llama_omni.model.vocoder import UnitVocoder
from llama_omni.train import vocoder_losses as losses
from llama_omni.train.discriminators import Discriminators
from llama_omni.train.muon import Muon
from llama_omni.train.processes import Processes
from llama_omni.train.vocoder_data import SegmentBatch
from llama_omni.train.vocoder_settings import VocoderSettings


class VocoderStep:
    """What learns, and how.

    Args:
        vocoder: on the run's device; HiFi-GAN's convolutions get weight norm.
        settings: see `VocoderSettings`.
        processes: whose gradients are averaged.

    Attributes:
        mel: the distance that held-out answers are measured by.
    """

    def __init__(
        self, vocoder: UnitVocoder, settings: VocoderSettings, processes: Processes
    ) -> None:
        self.vocoder, self._settings, self._processes = vocoder, settings, processes
        if isinstance(vocoder.generator, HifiGan):
            for module in list(vocoder.generator.modules()):
                if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
                    weight_norm(module)
        self._modules = nn.ModuleDict({"vocoder": vocoder})
        if settings.is_adversarial:
            judges = Discriminators(divisor=settings.discriminator_divisor)
            self._modules["judges"] = judges.to(processes.device)
        processes.spread([*self._modules.parameters(), *self._modules.buffers()])
        self._optimisers = {name: self._optimiser(each) for name, each in self._modules.items()}
        self.mel = losses.MelDistance(vocoder.sample_rate).to(processes.device)

    def __call__(
        self, batches: Sequence[SegmentBatch], *, learning_rate: float, judged: bool
    ) -> dict[str, float]:
        """Take one step over all batches of this process, and return its losses.

        Args:
            batches: all of the same size, as every process has them.
            learning_rate: of both sides.
            judged: whether the discriminators take part.

        Raises:
            TrainingError: a loss or a gradient is no number; nothing has been changed then.
        """
        found: list[dict[str, Tensor]] = []
        for batch in batches:
            found.append(self._losses(batch, judged, share=1 / len(batches)))
        names = list(found[0])
        values = torch.stack([torch.stack([each[name] for name in names]) for each in found])
        means = self._processes.sum(values.mean(dim=0)) / self._processes.world
        numbers = dict(zip(names, means.tolist(), strict=True))
        norms = {}
        moved = ["vocoder", "judges"] if judged else ["vocoder"]
        for name in moved:
            parameters = list(self._modules[name].parameters())
            self._processes.sum_gradients(parameters)
            norms[name] = nn.utils.clip_grad_norm_(parameters, self._settings.max_grad_norm)
        self._check(numbers | {f"gradient of the {k}": float(v) for k, v in norms.items()}, batches)
        numbers["grad_norm"] = float(norms["vocoder"])
        for name in moved:
            for group in self._optimisers[name].param_groups:
                group["lr"] = learning_rate
            self._optimisers[name].step()
            self._optimisers[name].zero_grad(set_to_none=True)
        return numbers | {"lr": learning_rate}

    def weights(self) -> dict[str, Tensor]:
        """Return everything that learns, by name."""
        return self._modules.state_dict()

    def optimiser_states(self) -> dict[str, Any]:
        """Return the optimisers' moments."""
        return {name: each.state_dict() for name, each in self._optimisers.items()}

    def restore(self, weights: dict[str, Tensor], optimisers: dict[str, Any]) -> None:
        """Put back what `weights` and `optimiser_states` gave."""
        self._modules.load_state_dict(weights)
        for name, state in optimisers.items():
            self._optimisers[name].load_state_dict(state)

    @torch.no_grad()
    def product(self) -> UnitVocoder:
        """Return a copy for use: on the CPU, in evaluation mode, its weight norm folded."""
        plain = UnitVocoder(self.vocoder.config)
        for name, target in plain.state_dict().items():
            source: Any = self.vocoder
            for part in name.split("."):
                source = getattr(source, part)
            target.copy_(source)
        return plain.eval()

    def _losses(self, batch: SegmentBatch, judged: bool, *, share: float) -> dict[str, Tensor]:
        """Add one batch's gradients; return its losses."""
        settings = self._settings
        real = batch.durations > 0  # (B, U)
        with self._autocast():
            embedded = self.vocoder.embedding(batch.units)  # (B, U, E)
            log_durations = self.vocoder.duration_predictor(embedded, real.sum(dim=1))  # (B, U)
            sound = self.vocoder.generate(batch.frames, batch.lengths)  # (B, S)
        sound = sound.float()
        found = {
            "mel": self.mel(sound, batch.sound),
            "durations": losses.duration_distance(log_durations, batch.durations, real),
        }
        total = settings.mel_weight * found["mel"] + settings.duration_weight * found["durations"]
        if settings.stft_weight:
            found["stft"] = losses.stft_distance(sound, batch.sound)
            total = total + settings.stft_weight * found["stft"]
        if judged:
            found["judges"] = self._teach_judges(sound.detach(), batch.sound, share=share)
            found["adversarial"], found["features"] = self._judge(sound, batch.sound)
            total = total + found["adversarial"] + settings.feature_weight * found["features"]
        (total * share / self._processes.world).backward()
        return {name: value.detach() for name, value in ({"loss": total} | found).items()}

    def _teach_judges(self, made: Tensor, real: Tensor, *, share: float) -> Tensor:
        with self._autocast():
            judgements = self._modules["judges"](torch.cat([made, real]))
        halves = [
            [(score[rows], [each[rows] for each in features]) for score, features in judgements]
            for rows in (slice(len(made)), slice(len(made), None))
        ]
        loss = losses.discriminator_loss(halves[0], halves[1])
        (loss * share / self._processes.world).backward()
        return loss

    def _judge(self, made: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the generator pays; it leaves no gradient in the discriminators."""
        judges = self._modules["judges"].requires_grad_(False)
        with self._autocast():
            ours = judges(made)
            with torch.no_grad():
                theirs = judges(real)
        judges.requires_grad_(True)
        return losses.generator_loss(ours), losses.feature_distance(ours, theirs)

    def _optimiser(self, module: nn.Module) -> torch.optim.Optimizer:
        settings = self._settings
        betas = (settings.beta1, settings.beta2)
        rate, decay = settings.learning_rate, settings.weight_decay
        if settings.optimizer == "muon" and module is self.vocoder:
            matrices = [
                each
                for name, each in module.named_parameters()
                if each.ndim == 2 and name.startswith(("generator.groups.", "generator.ups."))
            ]
            theirs = {id(each) for each in matrices}
            others = [each for each in module.parameters() if id(each) not in theirs]
            return Muon(matrices, others, lr=rate, weight_decay=decay, betas=betas)
        return torch.optim.AdamW(module.parameters(), lr=rate, betas=betas, weight_decay=decay)

    def _autocast(self) -> Any:
        bf16 = self._settings.precision == "bf16"
        return torch.autocast(self._processes.device.type, torch.bfloat16, enabled=bf16)

    def _check(self, numbers: dict[str, float], batches: Sequence[SegmentBatch]) -> None:
        for name, value in numbers.items():
            if not torch.tensor(value).isfinite():
                ids = dict.fromkeys(each for batch in batches for each in batch.ids)
                raise TrainingError(
                    f"{name} must be a finite number, got {value} for the answers "
                    f"{', '.join(ids)}; look at these answers, or try a lower learning_rate or "
                    "precision=float32"
                )
