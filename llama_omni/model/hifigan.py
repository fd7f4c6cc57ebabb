"""HiFi-GAN generator: one embedding a frame -> `hop` samples a frame.

Unusual: rows of different lengths can share a batch. Wherever a convolution would see a longer
row's padding it sees zeros instead, as it does past the end of a row that is alone.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from llama_omni.model.vocoder_config import VocoderConfig

_SLOPE = 0.1  # of every leaky ReLU but the last
_LAST_SLOPE = 0.01  # the reference leaves the last one at torch's default
_EDGE_KERNEL = 7  # of the first and the last convolution


class HifiGan(nn.Module):
    """Upsample by transposed convolutions, refine each time by the mean of residual blocks.

    Attributes:
        hop: samples per frame.
        receptive_field: frames on each side that the samples of a frame depend on.
        conv_post: the last layer, whose output is the waveform before tanh.

    Source:
        fairseq `Generator` with `ResBlock` type 1.
    """

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        channels, edge = config.initial_channels, _EDGE_KERNEL // 2
        self.rates = config.upsample_rates
        self.conv_pre = nn.Conv1d(config.embedding_dim, channels, _EDGE_KERNEL, padding=edge)
        self.ups = nn.ModuleList()
        self.resblocks = nn.ModuleList()  # flat: one for each kernel of each stage
        for rate, kernel in zip(self.rates, config.upsample_kernel_sizes, strict=True):
            padding = (kernel - rate) // 2
            self.ups.append(nn.ConvTranspose1d(channels, channels // 2, kernel, rate, padding))
            channels //= 2
            for size, dilations in zip(
                config.resblock_kernel_sizes, config.resblock_dilations, strict=True
            ):
                self.resblocks.append(_ResBlock(channels, size, dilations))
        self.conv_post = nn.Conv1d(channels, 1, _EDGE_KERNEL, padding=edge)
        self.hop = math.prod(self.rates)
        self.receptive_field = _receptive_field(config)

    def forward(
        self, embedded: Float[Tensor, "B E F"], lengths: Int[Tensor, " B"] | None = None
    ) -> Float[Tensor, "B S"]:
        """Return S = F * hop samples in [-1, 1].

        Args:
            embedded: (B, E, F) one embedding a frame.
            lengths: (B,) how many frames of each row are real; silence follows them.
        """
        per_stage = len(self.resblocks) // len(self.ups)
        mask = row_mask(lengths, embedded.shape[2], embedded.dtype)  # (B, 1, F)
        x = self.conv_pre(silence(embedded, mask))  # (B, C, F)
        for stage, (up, rate) in enumerate(zip(self.ups, self.rates, strict=True)):
            x = up(silence(F.leaky_relu(x, _SLOPE), mask))  # (B, C / 2, F * rate)
            mask = None if mask is None else mask.repeat_interleave(rate, dim=2)
            blocks = self.resblocks[stage * per_stage : (stage + 1) * per_stage]
            x = torch.stack([block(x, mask) for block in blocks]).mean(dim=0)
        x = self.conv_post(silence(F.leaky_relu(x, _LAST_SLOPE), mask))  # (B, 1, S)
        return silence(x.tanh(), mask)[:, 0]  # (B, S)


class _ResBlock(nn.Module):
    def __init__(self, channels: int, kernel: int, dilations: Sequence[int]) -> None:
        super().__init__()
        reach = kernel // 2
        self.convs1 = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel, padding=reach * dilation, dilation=dilation)
            for dilation in dilations
        )
        self.convs2 = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel, padding=reach) for _ in dilations
        )

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        for conv1, conv2 in zip(self.convs1, self.convs2, strict=True):
            inner = conv1(silence(F.leaky_relu(x, _SLOPE), mask))
            x = x + conv2(silence(F.leaky_relu(inner, _SLOPE), mask))
        return x


def row_mask(lengths: Tensor | None, size: int, dtype: torch.dtype) -> Tensor | None:
    """Return (B, 1, size): one where a row is real, zero where it is padding."""
    if lengths is None:
        return None
    return (torch.arange(size, device=lengths.device) < lengths[:, None])[:, None].to(dtype)


def silence(x: Tensor, mask: Tensor | None) -> Tensor:
    """Put zeros where a row is padding."""
    return x if mask is None else x * mask


def _receptive_field(config: VocoderConfig) -> int:
    """Follow the samples of frame 0 back, layer by layer, to the frames that they depend on."""
    reach = max(
        sum(kernel // 2 * (dilation + 1) for dilation in dilations)
        for kernel, dilations in zip(
            config.resblock_kernel_sizes, config.resblock_dilations, strict=True
        )
    )
    edge = _EDGE_KERNEL // 2
    first, last = -edge, math.prod(config.upsample_rates) - 1 + edge
    stages = list(zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True))
    for rate, kernel in reversed(stages):
        padding = (kernel - rate) // 2
        first = -((kernel - 1 - padding - (first - reach)) // rate)  # rounded up
        last = (last + reach + padding) // rate
    return max(edge - first, edge + last)
