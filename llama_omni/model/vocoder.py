"""Unit vocoder: unit ids -> waveform, with a duration for every unit.

A duration predictor says how many frames each unit lasts; a generator turns one unit a frame into
`hop` samples. The two share only the embedding table, so that another generator can take the
place of the HiFi-GAN: a class in `GENERATORS` that says its own `hop` and `receptive_field`.

Unusual: weight norm is folded (it belongs to training), and durations are decided in float32
whatever the dtype of the weights, so that their rounding does not hang on the batch.
"""

import math
from os import PathLike
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init

from llama_omni.errors import InputError
from llama_omni.model.hifigan import HifiGan, row_mask, silence
from llama_omni.model.vocoder_config import GENERATOR_NAMES, VocoderConfig, vocoder_preset
from llama_omni.model.vocos import ConvNextIstft

__all__ = ["DurationPredictor", "UnitVocoder", "VocoderConfig", "vocoder_preset"]

GENERATORS: dict[str, Any] = dict(zip(GENERATOR_NAMES, (HifiGan, ConvNextIstft), strict=True))
_DURATION_KERNEL = 3  # of both convolutions of the duration predictor
_RANDOM_FRAMES = 1.7  # usual duration with random weights: 50 frames over 29 units a second
_RANDOM_LOUDNESS = 0.2  # of the sound with random weights, before tanh


class UnitVocoder(PreTrainedModel):
    """Speak units: a duration for each, then `hop` samples for each frame."""

    config_class = VocoderConfig
    main_input_name = "units"
    config: VocoderConfig

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(config.num_units, config.embedding_dim)
        self.duration_predictor = DurationPredictor(config)
        self.generator = GENERATORS[config.generator](config)
        self.post_init()

    @property
    def sample_rate(self) -> int:
        """Samples per second."""
        return self.config.sample_rate

    @property
    def num_units(self) -> int:
        """K: how many units it can speak."""
        return self.config.num_units

    @property
    def hop(self) -> int:
        """Samples per frame."""
        return self.generator.hop

    @property
    def receptive_field(self) -> int:
        """Frames on each side that the samples of a frame depend on."""
        return self.generator.receptive_field

    @property
    def duration_context(self) -> int:
        """Units on each side that the duration of a unit depends on."""
        return self.duration_predictor.context

    def durations(
        self, units: Int[Tensor, "B U"], lengths: Int[Tensor, " B"] | None = None
    ) -> Int[Tensor, "B U"]:
        """Return how many frames each unit lasts, at least 1.

        Args:
            units: (B, U) unit ids.
            lengths: (B,) how many units of each row are real, where rows were padded; the
                durations of the others mean nothing.

        Source:
            fairseq `CodeGenerator`: max(1, round(exp(x) - 1)), halves to even.
        """
        log_durations = self.duration_predictor(self.embedding(units), lengths)  # (B, U)
        return (log_durations.exp() - 1).round().clamp(min=1).long()

    def generate(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, frames: Int[Tensor, "B F"], lengths: Int[Tensor, " B"] | None = None
    ) -> Float[Tensor, "B S"]:
        """Return the waveform of one unit id a frame, S = F * hop.

        Args:
            frames: (B, F) unit ids.
            lengths: (B,) how many frames of each row are real, where rows were padded; each row
                then sounds as it would alone, and is silent after its end.
        """
        return self.generator(self.embedding(frames).transpose(1, 2), lengths)  # (B, S)

    def forward(
        self, units: Int[Tensor, " U"], *, predict_durations: bool = True
    ) -> Float[Tensor, " S"]:
        """Return the whole reply's waveform; negative units are dropped first.

        Args:
            units: (U,) unit ids; none gives an empty waveform.
            predict_durations: give each unit its predicted number of frames; otherwise one.

        Raises:
            InputError: for a unit that is not below `num_units`.
        """
        units = units[units >= 0]
        if not units.numel():
            return torch.zeros(0, dtype=self.dtype, device=self.device)
        if int(units.max()) >= self.num_units:
            raise InputError(f"units must be below {self.num_units}, got {int(units.max())}")
        frames = units[None]  # (1, U)
        if predict_durations:
            frames = torch.repeat_interleave(units, self.durations(frames)[0])[None]  # (1, F)
        return self.generate(frames)[0]

    @classmethod
    def from_fairseq(
        cls, checkpoint: str | PathLike[str], config: str | PathLike[str]
    ) -> "UnitVocoder":
        """Read fairseq's code HiFi-GAN: a `g_*` pickle and its `config.json`.

        Raises:
            ConfigError: the configuration asks for what this vocoder does not do (pitch, speakers).
            CheckpointError: a file cannot be read, or a tensor is missing, extra or misshapen.
        """
        from llama_omni.model import vocoder_fairseq

        vocoder = cls(vocoder_fairseq.read_config(config))
        weights = vocoder_fairseq.read_weights(checkpoint, vocoder.state_dict())
        vocoder.load_state_dict(weights)
        return vocoder.eval()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Draw weights that sound: torch's usual spread, kept level through the upsampling."""
        if isinstance(module, nn.Embedding):
            init.normal_(module.weight)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.ConvTranspose1d):
            taps = module.in_channels * module.kernel_size[0] / module.stride[0]
            init.normal_(module.weight, std=(2 / taps) ** 0.5)
        elif isinstance(module, nn.Conv1d | nn.Linear):
            # The heads are known by identity: Transformers hands over only modules that hold
            # parameters themselves, never the parts that they are the heads of.
            gain = 3**-0.5
            if module is self.duration_predictor.proj:
                gain = 0.3
            elif module is getattr(self.generator, "conv_post", None):
                gain = _RANDOM_LOUDNESS
            init.normal_(module.weight, std=gain * module.weight[0].numel() ** -0.5)
        if (
            isinstance(module, nn.ConvTranspose1d | nn.Conv1d | nn.Linear)
            and module.bias is not None
        ):
            is_duration = module is self.duration_predictor.proj
            init.constant_(module.bias, math.log(1 + _RANDOM_FRAMES) if is_duration else 0.0)


class DurationPredictor(nn.Module):
    """Tell from a unit and its neighbours how long it lasts: log(1 + frames), in float32."""

    context = 2 * (_DURATION_KERNEL // 2)  # units on each side that it sees

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        width, hidden = config.embedding_dim, config.duration_hidden_dim
        self.conv1 = nn.Conv1d(width, hidden, _DURATION_KERNEL)
        self.norm1 = nn.LayerNorm(hidden)
        self.conv2 = nn.Conv1d(hidden, hidden, _DURATION_KERNEL)
        self.norm2 = nn.LayerNorm(hidden)
        self.dropout = nn.Dropout(config.duration_dropout)
        self.proj = nn.Linear(hidden, 1)

    def forward(
        self, embedded: Float[Tensor, "B U E"], lengths: Int[Tensor, " B"] | None = None
    ) -> Float[Tensor, "B U"]:
        """Return log(1 + frames) of each unit; `lengths` as in `UnitVocoder.durations`."""
        mask = row_mask(lengths, embedded.shape[1], torch.float32)  # (B, 1, U)
        with torch.autocast(embedded.device.type, enabled=False):  # it would undo the float32
            x = embedded.float().transpose(1, 2)  # (B, E, U)
            x = self._block(silence(x, mask), self.conv1, self.norm1)
            x = self._block(silence(x, mask), self.conv2, self.norm2)
            weight, bias = self.proj.weight.float(), self.proj.bias.float()
            return F.linear(x.transpose(1, 2), weight, bias)[..., 0]  # (B, U)

    def _block(self, x: Tensor, conv: nn.Conv1d, norm: nn.LayerNorm) -> Tensor:
        assert conv.bias is not None
        x = F.conv1d(x, conv.weight.float(), conv.bias.float(), padding=_DURATION_KERNEL // 2)
        x = x.relu().transpose(1, 2)  # (B, U, H)
        x = F.layer_norm(x, norm.normalized_shape, norm.weight.float(), norm.bias.float(), norm.eps)
        return self.dropout(x).transpose(1, 2)  # (B, H, U)
