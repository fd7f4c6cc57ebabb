"""Make one utterance sound as if said elsewhere, by someone else, on another line.

What is drawn depends on (seed, draw, index) alone, so a resumed run, another number of workers or
of processes hears the same sounds. Everything linear (speed, room, colour, noise, telephone) is
done on one spectrum: two transforms of the whole utterance, about 2 ms.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

from llama_omni.audio import SAMPLE_RATE
from llama_omni.errors import ConfigError
from llama_omni.interfaces import Audio

_KNOTS_HZ = np.geomspace(60.0, SAMPLE_RATE / 2, 7)  # where the equaliser's gains are drawn
_TELEPHONE_HZ = (300.0, 3400.0)
_BENDS = 9  # places of the mel axis that move, its ends among them
_RHYTHM_FRAMES = 25  # between those of time
_SIZES = sorted(  # even, of small factors: quick to transform
    2 * 2**a * 3**b * 5**c * 7**d
    for a in range(25)
    for b in range(16)
    for c in range(11)
    for d in range(9)
    if 2**a * 3**b * 5**c * 7**d < 2**25
)


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentSettings:
    """How much of what. A share is the part of the utterances that it happens to."""

    silence_s: float = 0.5  # at most, before and after; a third of it on average
    speed: float = 0.1  # resampled by 1 +- this, which moves pitch and formants too
    equaliser_db: float = 6.0  # +- this at each of seven frequencies
    reverb_share: float = 0.3
    reverb_s: tuple[float, float] = (0.1, 0.6)  # time to decay by 60 dB
    reverb_db: tuple[float, float] = (-15.0, 0.0)  # the room's energy against the direct sound's
    noise_share: float = 0.6
    noise_db: tuple[float, float] = (5.0, 35.0)  # speech against noise
    babble_share: float = 0.25  # of the noises: another utterance; else between white and brown
    telephone_share: float = 0.05
    clip_share: float = 0.05
    level_db: tuple[float, float] = (-26.0, -1.0)  # peak, against full scale
    warp_share: float = 0.7  # of rows that are warped, bent and told in another rhythm
    warp: float = 0.15  # the mel axis stretched by 1 +- this: another vocal tract
    bend: float = 2.0  # mel channels by which each eighth of the axis moves alone: other vowels
    rhythm: float = 4.0  # frames by which each quarter of a second moves alone: other durations
    time_masks: int = 2
    time_mask_frames: int = 20  # at most, of 10 ms, and at most a tenth of the utterance
    mel_masks: int = 2
    mel_mask_channels: int = 12  # at most

    def __post_init__(self) -> None:
        for name in ("reverb", "noise", "babble", "telephone", "clip", "warp"):
            share = getattr(self, f"{name}_share")
            if not 0.0 <= share <= 1.0:
                raise ConfigError(f"augment.{name}_share must be 0 to 1, got {share}")
        for name in ("speed", "warp"):
            if not 0.0 <= getattr(self, name) <= 0.5:
                raise ConfigError(f"augment.{name} must be 0 to 0.5, got {getattr(self, name)}")
        for name in ("reverb_s", "reverb_db", "noise_db", "level_db"):
            low, high = getattr(self, name)
            if not low <= high:
                raise ConfigError(f"augment.{name} must be (low, high), got ({low}, {high})")
        for name in ("silence_s", "equaliser_db", "time_masks", "time_mask_frames", "mel_masks"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"augment.{name} must be 0 or more, got {getattr(self, name)}")
        for name, most in (("bend", 4.0), ("rhythm", _RHYTHM_FRAMES / 2)):
            if not 0.0 <= getattr(self, name) <= most:
                raise ConfigError(
                    f"augment.{name} must be 0 to {most:g}, got {getattr(self, name)}"
                )
        if not self.reverb_s[0] > 0:
            raise ConfigError(f"augment.reverb_s must be above 0, got {self.reverb_s[0]}")


class Augmenter:
    """Draws and applies; holds no state, so calls can come in any order from any process."""

    def __init__(self, settings: AugmentSettings, *, seed: int) -> None:
        self.settings = settings
        self.seed = seed

    def waveform(
        self,
        audio: Audio,
        *,
        draw: int,
        index: int,
        other: Callable[[int], Audio] | None = None,
        strength: float = 1.0,
    ) -> Audio:
        """Return the utterance at another speed, place and level; its length changes.

        Args:
            audio: (S,) at 16 kHz.
            draw: The number of this draw, another for every time that the row is seen.
            index: The utterance's place in its data set.
            other: From a number to any other utterance, for babble; None: no babble.
            strength: Share of the utterances that are changed; the others stay as they are.
        """
        s, rng = self.settings, self._rng(draw, index, 0)
        if rng.random() >= strength:
            return audio
        before, after = (rng.random(2) ** 2 * s.silence_s * SAMPLE_RATE).astype(int)
        speed = rng.uniform(1.0 - s.speed, 1.0 + s.speed)
        length = len(audio) + int(before + after)
        room = int(s.reverb_s[1] * SAMPLE_RATE / 2)  # in which an echo dies away
        size = _fast_size(length + room, at_least=True)
        padded = np.zeros(size, np.float32)
        padded[before : before + len(audio)] = audio
        spectrum = np.fft.rfft(padded)  # (size / 2 + 1,)
        hz = np.linspace(0.0, SAMPLE_RATE / 2 * speed, len(spectrum))  # as it will be heard
        gains = rng.uniform(-s.equaliser_db, s.equaliser_db, len(_KNOTS_HZ))
        spectrum *= _interpolated(hz, gains)
        if rng.random() < s.reverb_share:
            spectrum *= 1.0 + np.fft.rfft(_room(rng, s, size))
        if rng.random() < s.noise_share:
            spectrum += self._noise(rng, spectrum, size, size / max(1, len(audio)), other)
        if rng.random() < s.telephone_share:
            spectrum *= _band(hz, *_TELEPHONE_HZ)
        heard = _fast_size(round(size / speed), at_least=False)
        spectrum = spectrum[: heard // 2 + 1]
        sound = np.fft.irfft(spectrum, heard)[: round(length * heard / size)]
        return self._level(rng, sound)

    def mel(
        self,
        mel: Float[Tensor, "B n_mels F"],
        lengths: Int[Tensor, " B"],
        *,
        draw: int,
        indices: Sequence[int],
        strength: float = 1.0,
    ) -> Float[Tensor, "B n_mels F"]:
        """Warp mel axis and time, and hide stretches of both; see `AugmentSettings`.

        Args:
            mel: (B, n_mels, F) log-mel, padded on the right.
            lengths: (B,) valid frames.
            draw: As in `waveform`.
            indices: Each row's place in its data set.
            strength: Share of the rows that are changed.
        """
        s, channels = self.settings, mel.shape[1]
        axis, time = torch.arange(channels).float(), torch.arange(mel.shape[2]).float()
        from_channels = axis.repeat(len(mel), 1)  # (B, n_mels): where each is read
        from_frames = time.repeat(len(mel), 1)  # (B, F)
        hidden = torch.zeros_like(mel, dtype=torch.bool)
        for row, (index, frames) in enumerate(zip(indices, lengths.tolist(), strict=True)):
            rng = self._rng(draw, index, 1)
            if rng.random() >= strength:
                continue
            warped = rng.random() < s.warp_share
            if warped:
                from_channels[row] *= rng.uniform(1.0 - s.warp, 1.0 + s.warp)
            for _ in range(s.time_masks):
                first, end = _stretch(rng, frames, min(s.time_mask_frames, frames // 10))
                hidden[row, :, first:end] = True
            for _ in range(s.mel_masks):
                first, end = _stretch(rng, channels, min(s.mel_mask_channels, channels // 4))
                hidden[row, first:end] = True
            if warped:
                bend = min(s.bend, (1.0 - s.warp) * (channels - 1) / (_BENDS - 1) / 2)
                from_channels[row] += _moves(rng, channels, _BENDS, bend)
                places = max(2, 1 + frames // _RHYTHM_FRAMES)
                from_frames[row, :frames] += _moves(
                    rng, frames, places, min(s.rhythm, (frames - 1) / (places - 1) / 2)
                )
                from_frames[row, :frames].clamp_(0, frames - 1)
        mean = mel.mean(dim=(1, 2), keepdim=True)  # (B, 1, 1)
        moved = _read(_read(mel, from_channels.to(mel.device)).mT, from_frames.to(mel.device)).mT
        return torch.where(hidden, mean, moved)

    def _rng(self, draw: int, index: int, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, draw, index, purpose])

    def _noise(
        self,
        rng: np.random.Generator,
        spectrum: np.ndarray,
        size: int,
        share: float,
        other: Callable[[int], Audio] | None,
    ) -> np.ndarray:
        """Draw a noise's spectrum, some level below the speech, which fills 1 / share of it."""
        s = self.settings
        if rng.random() < s.babble_share and other is not None:
            sound = np.zeros(size, np.float32)
            voice = other(int(rng.integers(2**31)))[:size]
            first = int(rng.integers(size - len(voice) + 1))
            sound[first : first + len(voice)] = voice
            noise = np.fft.rfft(sound)
        else:
            drawn = rng.standard_normal((2, len(spectrum)), dtype=np.float32)
            slope = rng.uniform(0.0, 1.0)  # of the amplitude: 0 white, 0.5 pink, 1 brown
            hz = np.arange(1, len(spectrum) + 1, dtype=np.float32) * SAMPLE_RATE / size
            noise = (drawn[0] + 1j * drawn[1]) * np.maximum(hz, 50.0) ** np.float32(-slope)
        ratio_db = rng.uniform(*s.noise_db)
        power, wanted = _power(noise), _power(spectrum) * share * 10.0 ** (-ratio_db / 10.0)
        return noise * np.sqrt(wanted / max(power, 1e-20))

    def _level(self, rng: np.random.Generator, sound: np.ndarray) -> Audio:
        s = self.settings
        peak = 10.0 ** (rng.uniform(*s.level_db) / 20.0)
        scaled = sound * (peak / max(float(np.abs(sound).max(initial=0.0)), 1e-5))
        if rng.random() < s.clip_share:
            scaled = np.clip(scaled * rng.uniform(1.5, 4.0), -peak, peak)
        return scaled.astype(np.float32)


def _fast_size(length: int, *, at_least: bool) -> int:
    """Return an even size that transforms quickly, near a length (within 2 %) or not below it."""
    place = bisect_left(_SIZES, length)
    if at_least or not place or _SIZES[place] - length < length - _SIZES[place - 1]:
        return _SIZES[place]
    return _SIZES[place - 1]


def _interpolated(hz: np.ndarray, gains_db: np.ndarray) -> Float32[np.ndarray, " bins"]:
    """Return amplitudes along a smooth curve through the knots' gains."""
    places = np.log(np.maximum(hz, 1.0))
    return (10.0 ** (np.interp(places, np.log(_KNOTS_HZ), gains_db) / 20.0)).astype(np.float32)


def _room(
    rng: np.random.Generator, settings: AugmentSettings, size: int
) -> Float32[np.ndarray, " size"]:
    """Draw an impulse response without its direct sound: noise that dies away."""
    decay_s, level_db = rng.uniform(*settings.reverb_s), rng.uniform(*settings.reverb_db)
    first = int(rng.uniform(0.002, 0.02) * SAMPLE_RATE)
    count = min(int(decay_s * SAMPLE_RATE), size - first)
    tail = rng.standard_normal(count, dtype=np.float32)
    tail *= np.exp(np.arange(count, dtype=np.float32) * np.float32(-6.9 / SAMPLE_RATE / decay_s))
    response = np.zeros(size, np.float32)
    energy = float((tail**2).sum())
    response[first : first + count] = tail * np.sqrt(10.0 ** (level_db / 10.0) / max(energy, 1e-9))
    return response


def _band(hz: np.ndarray, low: float, high: float) -> Float32[np.ndarray, " bins"]:
    """Return a band's amplitudes, with edges of fourth order."""
    below = np.minimum(np.maximum(hz, 1.0) / low, 1.0) ** 4
    above = np.minimum(high / np.maximum(hz, 1.0), 1.0) ** 8
    return (below * above).astype(np.float32)


def _power(spectrum: np.ndarray) -> float:
    return float(np.vdot(spectrum, spectrum).real)


def _stretch(rng: np.random.Generator, size: int, longest: int) -> tuple[int, int]:
    length = int(rng.integers(longest + 1))
    first = int(rng.integers(size - length + 1))
    return first, first + length


def _moves(rng: np.random.Generator, size: int, places: int, most: float) -> Float[Tensor, " size"]:
    """Draw how far each point of an axis moves: +- most at so many places, straight between.

    Their order is kept while most is at most half of what lies between two places.
    """
    drawn = rng.uniform(-most, most, places)
    return torch.from_numpy(
        np.interp(np.arange(size), np.linspace(0, size - 1, places), drawn).astype(np.float32)
    )


def _read(values: Float[Tensor, "B X Y"], places: Float[Tensor, "B X"]) -> Float[Tensor, "B X Y"]:
    """Read along the middle axis at places between points, linearly; the ends reach outwards."""
    last = values.shape[1] - 1
    below = places.clamp(0, last).floor().long()  # (B, X)
    share = (places.clamp(0, last) - below)[..., None]  # (B, X, 1)
    wide = (-1, -1, values.shape[2])
    low = values.gather(1, below[..., None].expand(wide))
    high = values.gather(1, (below + 1).clamp(max=last)[..., None].expand(wide))
    return low + share * (high - low)
