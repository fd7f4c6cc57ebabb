"""MFCC and deltas at 50 Hz: features of sound that need no weights."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers.audio_utils import mel_filter_bank

from llama_omni.audio import SAMPLE_RATE, UNIT_HOP, UNIT_RATE
from llama_omni.errors import ConfigError, InputError

_FLOOR = 1e-9  # mean power of a band: above the rounding of 16 bit sound, below any speech
_DELTA_REACH = 2  # frames to each side that a delta looks at


@dataclass(frozen=True, kw_only=True, slots=True)
class MfccConfig:
    """Knobs of MFCC features."""

    num_coefficients: int = 13  # C: cepstral coefficients, the first tells loudness
    num_mels: int = 40  # bands
    window: int = 640  # samples a frame looks at: 40 ms
    deltas: int = 1  # 0: none; 1: change; 2: change and change of the change
    min_hz: float = 40.0
    max_hz: float = 7600.0
    preemphasis: float = 0.97

    def __post_init__(self) -> None:
        if not 1 <= self.num_coefficients <= self.num_mels:
            raise ConfigError(
                f"num_coefficients must be 1 to num_mels = {self.num_mels}, "
                f"got {self.num_coefficients}"
            )
        if self.window < UNIT_HOP or (self.window - UNIT_HOP) % 2:
            raise ConfigError(
                f"window must be an even number of samples, at least {UNIT_HOP}, got {self.window}"
            )
        if self.deltas not in (0, 1, 2):
            raise ConfigError(f"deltas must be 0, 1 or 2, got {self.deltas}")
        if not 0.0 <= self.min_hz < self.max_hz <= SAMPLE_RATE / 2:
            raise ConfigError(
                f"min_hz and max_hz must be 0 <= min_hz < max_hz <= {SAMPLE_RATE // 2}, "
                f"got {self.min_hz} and {self.max_hz}"
            )

    @property
    def dim(self) -> int:
        """D: coefficients and their deltas."""
        return self.num_coefficients * (1 + self.deltas)


class MfccFeatures:
    """MFCC and deltas at exactly 50 Hz, each made zero-mean and unit-variance over a data set.

    Frame i is centred on the 320 samples [320 i, 320 (i + 1)) that its unit will sound for, so
    F = S // 320 exactly; what lies outside the sound counts as silence. Needs no weights.
    """

    rate_hz = UNIT_RATE

    def __init__(
        self,
        config: MfccConfig | None = None,
        *,
        mean: Float[Tensor, " D"] | None = None,
        std: Float[Tensor, " D"] | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.config = config = config or MfccConfig()
        self._mean = (torch.zeros(config.dim) if mean is None else mean.float()).to(device)
        self._std = (torch.ones(config.dim) if std is None else std.float()).to(device)
        for name, values in (("mean", self._mean), ("std", self._std)):
            if values.shape != (config.dim,) or not bool(values.isfinite().all()):
                raise ConfigError(
                    f"{name} must be {config.dim} finite numbers, got shape {tuple(values.shape)}"
                )
        if not bool((self._std > 0).all()):
            raise ConfigError(f"std must be above 0, got {float(self._std.min())}")
        self._num_fft = 1 << (config.window - 1).bit_length()
        window = torch.hann_window(config.window, periodic=False, dtype=torch.float64)
        scale = window.pow(2).sum().sqrt()  # a band's power does not depend on the window
        self._window = (window / scale).float().to(device)
        self._filters = _mel_filters(config, self._num_fft).to(device)  # (bins, n_mels)
        self._cosines = _cosines(config).to(device)  # (n_mels, C)

    @property
    def dim(self) -> int:
        """D: coefficients and their deltas."""
        return self.config.dim

    def num_frames(self, num_samples: int) -> int:
        """Return F = S // 320."""
        return num_samples // UNIT_HOP

    @torch.no_grad()
    def extract(self, waveform: Float[Tensor, " S"]) -> Float[Tensor, "F D"]:
        """Return the frames of one sound at 16 kHz."""
        lengths = torch.tensor([waveform.shape[-1]])
        return self.extract_batch(waveform[None], lengths)[0][0]

    @torch.no_grad()
    def extract_batch(
        self, waveforms: Float[Tensor, "B S"], lengths: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B F D"], Int[Tensor, " B"]]:
        """Return the frames of several sounds, zero beyond each row's, and how many each has.

        A row gives what it gives alone, but for the order of float32 sums.
        """
        device = self._window.device
        lengths = lengths.to(device)
        frames_of = lengths // UNIT_HOP  # (B,)
        S = waveforms.shape[1]
        if bool((lengths > S).any()) or bool((lengths < 0).any()):
            raise InputError(f"lengths must be 0 to {S} samples, got {lengths.tolist()}")
        if S < UNIT_HOP:
            return torch.zeros(len(waveforms), 0, self.dim, device=device), frames_of
        valid = torch.arange(S, device=device) < lengths[:, None]  # (B, S)
        cepstra = self._cepstra(waveforms.to(device).float(), valid)  # (B, F, C)
        parts = [cepstra]
        for _ in range(self.config.deltas):
            parts.append(_delta(parts[-1], frames_of))
        frames = (torch.cat(parts, dim=-1) - self._mean) / self._std  # (B, F, D)
        inside = torch.arange(frames.shape[1], device=device) < frames_of[:, None]  # (B, F)
        return torch.where(inside[..., None], frames, 0.0), frames_of

    def _cepstra(
        self, sound: Float[Tensor, "B S"], valid: Bool[Tensor, "B S"]
    ) -> Float[Tensor, "B F C"]:
        edge = (self.config.window - UNIT_HOP) // 2
        before = torch.nn.functional.pad(sound[:, :-1], (1, 0))  # (B, S), one sample late
        emphasised = torch.where(valid, sound - self.config.preemphasis * before, 0.0)
        padded = torch.nn.functional.pad(emphasised, (edge, edge))  # (B, S + window - hop)
        windows = padded.unfold(1, self.config.window, UNIT_HOP) * self._window  # (B, F, window)
        power = torch.fft.rfft(windows, self._num_fft).abs().square()  # (B, F, bins)
        mels = (power @ self._filters).clamp(min=_FLOOR).log()  # (B, F, n_mels)
        return mels @ self._cosines  # (B, F, C)

    def fitted(self, frames: Float[Tensor, "N D"]) -> tuple["MfccFeatures", Float[Tensor, "N D"]]:
        """Return features of mean 0 and variance 1 over frames that these gave, and the frames."""
        exact = frames.double()
        mean, std = exact.mean(dim=0), exact.std(dim=0, correction=0).clamp(min=1e-3)  # (D,)
        features = MfccFeatures(
            self.config,
            mean=mean.to(self._mean.device) * self._std + self._mean,
            std=std.to(self._std.device) * self._std,
            device=self._mean.device,
        )
        return features, ((exact - mean) / std).float()

    def to(self, device: str | torch.device) -> "MfccFeatures":
        """Return the same features on another device."""
        return MfccFeatures(self.config, mean=self._mean, std=self._std, device=device)

    def describe(self) -> dict[str, Any]:
        """Return the knobs and the float32 statistics, which JSON keeps exactly."""
        return {
            "kind": "mfcc",
            **asdict(self.config),
            "mean": self._mean.tolist(),
            "std": self._std.tolist(),
        }

    @classmethod
    def from_description(cls, fields: Mapping[str, Any]) -> "MfccFeatures":
        """Build from what `describe` gave."""
        knobs = dict(fields)
        statistics = {name: knobs.pop(name, None) for name in ("mean", "std")}
        try:
            mean, std = (
                None if values is None else torch.tensor(values, dtype=torch.float32)
                for values in statistics.values()
            )
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(f"mean and std must be lists of numbers, got: {error}") from error
        return cls(MfccConfig(**knobs), mean=mean, std=std)


def _mel_filters(config: MfccConfig, num_fft: int) -> Float[Tensor, "bins n_mels"]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an empty band is refused below
        bank = mel_filter_bank(
            num_frequency_bins=1 + num_fft // 2,
            num_mel_filters=config.num_mels,
            min_frequency=config.min_hz,
            max_frequency=config.max_hz,
            sampling_rate=SAMPLE_RATE,
            mel_scale="htk",
        )
    filters = torch.from_numpy(bank)  # (bins, n_mels)
    if not bool((filters.amax(dim=0) > 0).all()):
        raise ConfigError(f"num_mels must leave a frequency to each band, got {config.num_mels}")
    return (filters / filters.sum(dim=0)).float()  # each band: a mean of power


def _cosines(config: MfccConfig) -> Float[Tensor, "n_mels C"]:
    """Return the orthonormal DCT-II of the log-mel bands."""
    bands = torch.arange(config.num_mels, dtype=torch.float64) + 0.5
    orders = torch.arange(config.num_coefficients, dtype=torch.float64)
    cosines = torch.cos(math.pi / config.num_mels * bands[:, None] * orders)  # (n_mels, C)
    cosines *= math.sqrt(2.0 / config.num_mels)
    cosines[:, 0] *= math.sqrt(0.5)
    return cosines.float()


def _delta(values: Float[Tensor, "B F C"], lengths: Int[Tensor, " B"]) -> Float[Tensor, "B F C"]:
    """Return the slope over five frames; a row's first and last frame go on beyond its ends."""
    steps = torch.arange(values.shape[1], device=values.device)
    last = (lengths - 1).clamp(min=0)[:, None]  # (B, 1)
    slope = torch.zeros_like(values)
    for reach in range(1, _DELTA_REACH + 1):
        later = torch.minimum(steps + reach, last)  # (B, F)
        earlier = torch.minimum((steps - reach).clamp(min=0)[None], last)  # (B, F)
        slope += reach * (_at(values, later) - _at(values, earlier))
    return slope / (2 * sum(reach**2 for reach in range(1, _DELTA_REACH + 1)))


def _at(values: Float[Tensor, "B F C"], steps: Int[Tensor, "B F"]) -> Float[Tensor, "B F C"]:
    return values.gather(1, steps[..., None].expand_as(values))
