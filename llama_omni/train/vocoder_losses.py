"""What vocoder training makes small: mel and STFT distances, and the two sides of the game.

Everything is computed in float32; sounds are (B, S) in [-1, 1].
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.audio_utils import mel_filter_bank

MEL_SIZE, MEL_HOP, NUM_MELS = 1024, 256, 80  # HiFi-GAN's
_MEL_FLOOR = 1e-5
_RESOLUTIONS = ((512, 128), (1024, 256), (2048, 512))  # window and hop, samples
_MAGNITUDE_FLOOR = 1e-7  # of a squared magnitude; keeps the root's slope finite


class MelDistance(nn.Module):
    """Mean absolute difference of natural-log mel spectra, 80 bands up to half the rate."""

    filters: Tensor

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        bins = MEL_SIZE // 2 + 1
        filters = mel_filter_bank(
            bins, NUM_MELS, 0.0, sample_rate / 2, sample_rate, norm="slaney", mel_scale="slaney"
        )
        self.register_buffer("filters", torch.from_numpy(filters).float(), persistent=False)

    def forward(self, made: Float[Tensor, "B S"], real: Float[Tensor, "B S"]) -> Float[Tensor, ""]:
        """Return the distance."""
        return (self._log_mel(made) - self._log_mel(real)).abs().mean()

    def _log_mel(self, sound: Tensor) -> Tensor:
        magnitude = stft_magnitude(sound, MEL_SIZE, MEL_HOP)  # (B, bins, T)
        return (magnitude.transpose(1, 2) @ self.filters).clamp(min=_MEL_FLOOR).log()


def stft_distance(made: Float[Tensor, "B S"], real: Float[Tensor, "B S"]) -> Float[Tensor, ""]:
    """Return spectral convergence + log-magnitude difference, the mean over three resolutions.

    Source:
        Parallel WaveGAN (arXiv 1910.11480), section 2.2, with hops of a quarter window.
    """
    total = made.new_zeros(())
    for size, hop in _RESOLUTIONS:
        ours, theirs = stft_magnitude(made, size, hop), stft_magnitude(real, size, hop)
        total = total + (theirs - ours).norm() / theirs.norm().clamp(min=_MAGNITUDE_FLOOR)
        total = total + (theirs.log() - ours.log()).abs().mean()
    return total / len(_RESOLUTIONS)


def stft_magnitude(sound: Float[Tensor, "B S"], size: int, hop: int) -> Float[Tensor, "B bins T"]:
    """Return magnitudes of Hann windows centred on multiples of `hop`; zeros lie outside."""
    window = torch.hann_window(size, device=sound.device)
    spectra = torch.stft(
        sound.float(), size, hop, window=window, pad_mode="constant", return_complex=True
    )  # (B, bins, T)
    power = torch.view_as_real(spectra).square().sum(-1)
    return power.clamp(min=_MAGNITUDE_FLOOR).sqrt()


def duration_distance(
    log_durations: Float[Tensor, "B U"], durations: Int[Tensor, "B U"], real: Bool[Tensor, "B U"]
) -> Float[Tensor, ""]:
    """Return the mean squared error of log(1 + frames) over the real units (fairseq)."""
    errors = (log_durations.float() - durations.float().log1p()).square()
    return errors[real].mean()


Judgement = tuple[Tensor, list[Tensor]]  # scores, and the features of each layer before them


def discriminator_loss(made: Sequence[Judgement], real: Sequence[Judgement]) -> Float[Tensor, ""]:
    """Return what a least-squares discriminator pays: real should score 1, made 0."""
    pairs: Any = zip(made, real, strict=True)
    return _total([(1 - r).square().mean() + m.square().mean() for (m, _), (r, _) in pairs])


def generator_loss(made: Sequence[Judgement]) -> Float[Tensor, ""]:
    """Return what the generator pays for not being taken for real."""
    return _total([(1 - score).square().mean() for score, _ in made])


def feature_distance(made: Sequence[Judgement], real: Sequence[Judgement]) -> Float[Tensor, ""]:
    """Return the summed mean difference of all layers' features."""
    return _total(
        [
            F.l1_loss(ours, theirs.detach())
            for (_, made_features), (_, real_features) in zip(made, real, strict=True)
            for ours, theirs in zip(made_features, real_features, strict=True)
        ]
    )


def _total(losses: Sequence[Tensor]) -> Tensor:
    return torch.stack([loss.float() for loss in losses]).sum()
