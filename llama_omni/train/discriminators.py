"""HiFi-GAN's discriminators: by period, and by scale. Training only; never saved with a vocoder.

Source:
    HiFi-GAN (arXiv 2010.05646), section 2.3.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from llama_omni.train.vocoder_losses import Judgement

_PERIODS = (2, 3, 5, 7, 11)
_NUM_SCALES = 3
_SLOPE = 0.1
# Channels, kernel, stride and groups of each layer by scale; those by period are 5 x 1.
_SCALE_LAYERS = (
    (128, 15, 1, 1),
    (128, 41, 2, 4),
    (256, 41, 2, 16),
    (512, 41, 4, 16),
    (1024, 41, 4, 16),
    (1024, 41, 1, 16),
    (1024, 5, 1, 1),
)
_PERIOD_LAYERS = ((32, 3), (128, 3), (512, 3), (1024, 3), (1024, 1))  # channels, stride


class Discriminators(nn.Module):
    """Judge a sound by five periods and at three scales.

    Args:
        divisor: divides every layer's channels; 1 is the paper's.
    """

    def __init__(self, *, divisor: int = 1) -> None:
        super().__init__()
        self.by_period = nn.ModuleList(_ByPeriod(period, divisor) for period in _PERIODS)
        self.by_scale = nn.ModuleList(
            _ByScale(spectral_norm if not scale else weight_norm, divisor)
            for scale in range(_NUM_SCALES)
        )

    def forward(self, sound: Float[Tensor, "B S"]) -> list[Judgement]:
        """Return eight judgements, which say nothing of the sound's length."""
        judgements = [judge(sound) for judge in self.by_period]
        x = sound[:, None]  # (B, 1, S)
        for scale, judge in enumerate(self.by_scale):
            x = F.avg_pool1d(x, 4, 2, padding=2) if scale else x
            judgements.append(judge(x))
        return judgements


class _ByPeriod(nn.Module):
    """Lay the sound out in rows of one period, and look down the columns."""

    def __init__(self, period: int, divisor: int) -> None:
        super().__init__()
        self.period = period
        self.convs, width = nn.ModuleList(), 1
        for channels, stride in _PERIOD_LAYERS:
            conv = nn.Conv2d(width, channels // divisor, (5, 1), (stride, 1), padding=(2, 0))
            self.convs.append(weight_norm(conv))
            width = channels // divisor
        self.last = weight_norm(nn.Conv2d(width, 1, (3, 1), padding=(1, 0)))

    def forward(self, sound: Float[Tensor, "B S"]) -> Judgement:
        B, S = sound.shape
        sound = F.pad(sound[:, None], (0, -S % self.period), mode="reflect")  # (B, 1, S')
        return _judge(sound.reshape(B, 1, -1, self.period), self.convs, self.last)


class _ByScale(nn.Module):
    """Look at the sound as it is."""

    def __init__(self, norm: object, divisor: int) -> None:
        super().__init__()
        self.convs, width = nn.ModuleList(), 1
        for channels, kernel, stride, groups in _SCALE_LAYERS:
            channels //= divisor
            while channels % groups or width % groups:
                groups //= 2
            conv = nn.Conv1d(width, channels, kernel, stride, kernel // 2, groups=groups)
            self.convs.append(norm(conv))  # pyright: ignore[reportCallIssue]
            width = channels
        self.last = norm(nn.Conv1d(width, 1, 3, padding=1))  # pyright: ignore[reportCallIssue]

    def forward(self, x: Float[Tensor, "B 1 S"]) -> Judgement:
        return _judge(x, self.convs, self.last)


def _judge(x: Tensor, convs: nn.ModuleList, last: nn.Module) -> Judgement:
    features = []
    for conv in convs:
        x = F.leaky_relu(conv(x), _SLOPE)
        features.append(x)
    x = last(x)
    return torch.flatten(x, 1), [*features, x]
