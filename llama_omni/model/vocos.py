"""Light generator: ConvNeXt blocks, then an inverse short-time Fourier transform.

It works at 50 and 100 frames a second and leaves the waveform's fine structure to the inverse
transform, so that it speaks, and learns to speak, in a fraction of HiFi-GAN's time on a CPU.

Unusual: its reach is finite, so that streaming can be exact. Nothing is normalised over time, and
the inverse transform is an explicit overlap-add, divided by the windows that are really there. Rows
of different lengths share a batch as in HiFi-GAN: past a row's end there are zeros and no windows.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from llama_omni.model.hifigan import row_mask, silence
from llama_omni.model.vocoder_config import VocoderConfig

_EDGE_KERNEL = 7  # of the first convolution
_MAX_LOG_MAGNITUDE = 6.0  # louder than any full-scale sine; keeps exp from overflowing
_FLOOR = 1e-8  # of the sum of squared windows, where a row has none


class ConvNextIstft(nn.Module):
    """Refine frames in groups of blocks, doubling the rate between groups; then to sound.

    Attributes:
        hop: samples per frame.
        receptive_field: frames on each side that the samples of a frame depend on.
        head: the last layer, whose output is log magnitudes, then phases.

    Source:
        Vocos (arXiv 2306.00814), with another backbone rate, edge rule and normalisation.
    """

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        width = config.convnext_dim
        self.size, self.step = config.istft_size, config.istft_hop
        self.conv_pre = nn.Conv1d(
            config.embedding_dim, width, _EDGE_KERNEL, padding=_EDGE_KERNEL // 2
        )
        self.norm_pre = nn.LayerNorm(width)
        self.groups = nn.ModuleList(
            nn.ModuleList(_Block(config) for _ in range(count)) for count in config.convnext_blocks
        )
        self.ups = nn.ModuleList(nn.Linear(width, 2 * width) for _ in config.convnext_blocks[1:])
        self.norm_post = nn.LayerNorm(width)
        self.head = nn.Linear(width, self.size + 2)
        self.hop = self.step * 2 ** len(self.ups)
        self.receptive_field = _receptive_field(config)

    def forward(
        self, embedded: Float[Tensor, "B E F"], lengths: Int[Tensor, " B"] | None = None
    ) -> Float[Tensor, "B S"]:
        """Return S = F * hop samples in [-1, 1].

        Args:
            embedded: (B, E, F) one embedding a frame.
            lengths: (B,) how many frames of each row are real; silence follows them.
        """
        mask = row_mask(lengths, embedded.shape[2], embedded.dtype)  # (B, 1, F)
        x = self.conv_pre(silence(embedded, mask)).transpose(1, 2)  # (B, F, C)
        x = self.norm_pre(x)
        for group, blocks in enumerate(self.groups):
            if group:
                B, T, C = x.shape
                x = self.ups[group - 1](x).reshape(B, 2 * T, C)  # (B, 2T, C)
                mask = None if mask is None else mask.repeat_interleave(2, dim=2)
            for block in blocks:  # pyright: ignore[reportGeneralTypeIssues]
                x = block(x, mask)
        x = self.norm_post(x).float()  # (B, T, C)
        with torch.autocast(x.device.type, enabled=False):  # phases want every bit
            spectra = F.linear(x, self.head.weight.float(), self.head.bias.float())  # (B, T, N + 2)
        return self._sound(spectra, mask).to(embedded.dtype)  # (B, S)

    def _sound(
        self, spectra: Float[Tensor, "B T W"], mask: Float[Tensor, "B 1 T"] | None
    ) -> Float[Tensor, "B S"]:
        """Turn log magnitudes and phases into sound; phases count from a window's middle."""
        log_magnitude, phase = spectra.chunk(2, dim=-1)  # (B, T, N / 2 + 1) each
        spectrum = torch.polar(log_magnitude.clamp(max=_MAX_LOG_MAGNITUDE).exp(), phase)
        pieces = torch.fft.irfft(spectrum, self.size).roll(self.size // 2, dims=-1)  # (B, T, N)
        window = torch.hann_window(self.size, device=pieces.device)
        present = pieces.new_ones(1, 1, pieces.shape[1]) if mask is None else mask.float()
        present = present.transpose(1, 2)  # (B or 1, T, 1)
        sound = self._overlap(pieces * window * present)
        sound = sound / self._overlap(window.square() * present).clamp(min=_FLOOR)
        # Half a window of the neighbour's sound may reach past a row's end.
        shown = present.repeat_interleave(self.step, dim=1)[..., 0]  # (B or 1, S)
        return sound.clamp(-1, 1) * shown

    def _overlap(self, pieces: Float[Tensor, "B T N"]) -> Float[Tensor, "B S"]:
        """Add windows up, each in the middle of its step; drop what lies outside the row."""
        B, T, _ = pieces.shape
        parts = pieces.reshape(B, T, -1, self.step)  # (B, T, N / step, step)
        count = parts.shape[2]
        padded = [F.pad(parts[:, :, i], (0, 0, i, count - 1 - i)) for i in range(count)]
        total = torch.stack(padded).sum(dim=0).reshape(B, -1)  # (B, (T + N / step - 1) * step)
        edge = (self.size - self.step) // 2
        return total[:, edge : edge + T * self.step]


class _Block(nn.Module):
    """A depthwise convolution over time, then a perceptron over channels, beside a shortcut."""

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        width, kernel = config.convnext_dim, config.convnext_kernel_size
        self.conv = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, config.convnext_hidden_dim)
        self.contract = nn.Linear(config.convnext_hidden_dim, width)

    def forward(
        self, x: Float[Tensor, "B T C"], mask: Float[Tensor, "B 1 T"] | None
    ) -> Float[Tensor, "B T C"]:
        inner = self.conv(silence(x.transpose(1, 2), mask)).transpose(1, 2)  # (B, T, C)
        return x + self.contract(F.gelu(self.expand(self.norm(inner))))


def _receptive_field(config: VocoderConfig) -> int:
    """Follow the samples of frame 0 back, layer by layer, to the frames that they depend on."""
    step, edge = config.istft_hop, (config.istft_size - config.istft_hop) // 2
    rate = 2 ** (len(config.convnext_blocks) - 1)
    # Window t spans the samples t * step - edge to (t + 1) * step + edge; its first one is zero.
    first, last = -((edge + step - 1) // step), (rate * step - 2 + edge) // step
    reach = config.convnext_kernel_size // 2
    for place in range(len(config.convnext_blocks) - 1, -1, -1):
        first -= reach * config.convnext_blocks[place]
        last += reach * config.convnext_blocks[place]
        if place:
            first, last = first // 2, last // 2
    return max(-first, last) + _EDGE_KERNEL // 2
