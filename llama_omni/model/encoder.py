"""Log-mel and the Whisper encoder, at its full window or at the length that was spoken.

The release pads every question to 30 s. Here `SpeechEncoder` also takes any shorter length: the
same conv stem and layers with the first positions, so a short question costs little. At the full
window both are the same computation.
"""

from functools import lru_cache
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import WhisperConfig
from transformers import initialization as init
from transformers.audio_utils import mel_filter_bank
from transformers.models.whisper.modeling_whisper import WhisperEncoder, sinusoids

from llama_omni.audio import HOP, SAMPLE_RATE
from llama_omni.errors import InputError

N_FFT = 400  # 25 ms


def log_mel(waveform: Float[Tensor, "B S"], *, num_mels: int) -> Float[Tensor, "B n_mels F"]:
    """Compute Whisper's log-mel spectrogram, F = S // 160.

    The floor is 8 decades below each row's own maximum, so rows of a batch never influence each
    other. Pad the waveform beforehand where the model wants its whole window.

    Source:
        openai-whisper `log_mel_spectrogram`.
    """
    window = torch.hann_window(N_FFT, device=waveform.device)
    spectrum = torch.stft(waveform.float(), N_FFT, HOP, window=window, return_complex=True)
    power = spectrum[..., :-1].abs() ** 2  # (B, 201, F)
    mel = _mel_filters(num_mels).to(waveform.device) @ power  # (B, n_mels, F)
    log_spectrum = mel.clamp(min=1e-10).log10()
    floor = log_spectrum.amax(dim=(1, 2), keepdim=True) - 8.0  # (B, 1, 1)
    return (torch.maximum(log_spectrum, floor) + 4.0) / 4.0


@lru_cache(maxsize=4)
def _mel_filters(num_mels: int) -> Float[Tensor, "n_mels bins"]:
    filters = mel_filter_bank(
        num_frequency_bins=1 + N_FFT // 2,
        num_mel_filters=num_mels,
        min_frequency=0.0,
        max_frequency=SAMPLE_RATE / 2,
        sampling_rate=SAMPLE_RATE,
        norm="slaney",
        mel_scale="slaney",
    )  # (201, n_mels)
    return torch.from_numpy(filters.T.copy()).float()


def feature_lengths(mel_lengths: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
    """Return N for F mel frames: the second convolution halves them, rounding up."""
    return (mel_lengths + 1) // 2


def attention_bias(mask: Tensor, implementation: str | None, dtype: torch.dtype) -> Tensor:
    """Give a True-where-visible mask the form that an attention implementation takes.

    SDPA (and what is built on it) takes booleans; eager attention adds its mask to the scores.
    """
    if implementation == "eager":
        return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)
    return mask


class SpeechEncoder(WhisperEncoder):
    """Whisper's encoder, with its weights and names, for any length up to its window."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__(config)
        self.embed_positions = Sinusoids(config.max_source_positions, config.d_model)
        self.embed_positions.requires_grad_(False)
        self.window = 2 * config.max_source_positions  # mel frames

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, Sinusoids):
            module.reset_parameters()
        else:
            super()._init_weights(module)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        mel: Float[Tensor, "B n_mels F"],
        mel_lengths: Int[Tensor, " B"] | None = None,
    ) -> Float[Tensor, "B N E"]:
        """Encode log-mel frames.

        Args:
            mel: (B, n_mels, F); rows that fill the window run Whisper's own forward, as the release
                does. Anything shorter runs the same layers on the first positions.
            mel_lengths: (B,) valid frames of each row; what lies beyond never influences it.
                None: all are valid.

        Returns:
            (B, N, E) features at 50 Hz, N = (F + 1) // 2.

        Raises:
            InputError: F is above the window.
        """
        F = mel.shape[-1]
        if F > self.window:
            raise InputError(f"mel must be at most {self.window} frames long, got {F}")
        if F == self.window and (mel_lengths is None or bool((mel_lengths == F).all())):
            return cast(Tensor, super().forward(mel).last_hidden_state)
        if mel_lengths is None:
            mel_lengths = torch.full((mel.shape[0],), F, device=mel.device)
        # What a row would see beyond its end if it were alone is the convolutions' zero padding.
        valid = torch.arange(F, device=mel.device) < mel_lengths[:, None]  # (B, F)
        hidden = nn.functional.gelu(self.conv1(mel * valid[:, None])) * valid[:, None]
        hidden = nn.functional.gelu(self.conv2(hidden)).transpose(1, 2)  # (B, N, E)
        N = hidden.shape[1]
        hidden = hidden + self.embed_positions.weight[:N]
        mask = None
        if not bool((mel_lengths == F).all()):
            keys = torch.arange(N, device=mel.device) < feature_lengths(mel_lengths)[:, None]
            mask = keys[:, None, None, :].expand(-1, 1, N, -1)  # (B, 1, N, N)
            mask = attention_bias(mask, self.config._attn_implementation, hidden.dtype)
        for layer in self.layers:
            hidden = layer(hidden, mask)
        return self.layer_norm(hidden)


class Sinusoids(nn.Embedding):
    """Whisper's positions; a class of its own, as Transformers would draw them at random."""

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Fill in the sinusoids."""
        init.copy_(self.weight, sinusoids(*self.weight.shape))
