"""Units of a data set: k-means fitted on features of its sound, and each sound's units.

A folder of units holds `kmeans.npy` and `features.json`, which names the features, the hash of the
centres and how the fit went. Fitting and naming compute one sound at a time on one thread of
scikit-learn, so the same sound and seed give the same files whatever else runs.
"""

import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from llama_omni.audio import SAMPLE_RATE
from llama_omni.data.recipe import MAX_SEED
from llama_omni.errors import (
    CheckpointError,
    ConfigError,
    InputError,
    MissingExtraError,
    OutputError,
)
from llama_omni.files import write_bytes, write_text
from llama_omni.model.features import UnitFeatures, features_from
from llama_omni.model.units import KMeansUnits

logger = logging.getLogger(__name__)

CENTRES, DESCRIPTION = "kmeans.npy", "features.json"
_FORMAT = 1  # of features.json
_FEW_FRAMES = 10  # a unit: below this the centres are mostly chance
Waveform = Float32[np.ndarray, " _"]  # (S,), of any length each


class SoundUnits(NamedTuple):
    """The units of one sound, frame by frame and with repeats merged."""

    frames: Int64[np.ndarray, " F"]  # one unit every 20 ms
    units: Int64[np.ndarray, " U"]  # without adjacent repeats
    durations: Int64[np.ndarray, " U"]  # frames of each; they sum to F


def merge_repeats(frames: Int64[np.ndarray, " F"]) -> SoundUnits:
    """Merge adjacent repeats and count them; `np.repeat(units, durations)` is the way back."""
    starts = np.flatnonzero(np.diff(frames, prepend=-1))  # (U,), a unit is never -1
    durations = np.diff(starts, append=len(frames)).astype(np.int64)
    return SoundUnits(frames, frames[starts], durations)


@dataclass(frozen=True, kw_only=True, slots=True)
class FitReport:
    """What a fit saw and gave."""

    num_units: int
    seed: int
    num_sounds: int
    sound_s: float  # seconds of sound looked at
    num_frames: int
    inertia: float  # mean squared distance of a frame to its centre
    used_units: int  # that at least one frame of the sample has
    perplexity: float  # of the units' shares: how many are used evenly
    merged_per_s: float  # units a second once repeats are merged
    steps: int  # of the k-means
    seconds: float  # the fit took


def fit_units(
    waveforms: Iterable[Waveform],
    features: UnitFeatures,
    *,
    num_units: int,
    sample_s: float = 3600.0,
    seed: int = 0,
    batch_size: int = 10_000,
    device: str | torch.device = "cpu",
    progress: Callable[[float, float], None] | None = None,
) -> tuple["UnitExtractor", FitReport]:
    """Fit k-means on the frames of some of a data set's sound.

    Args:
        waveforms: (S,) at 16 kHz. Where they have a length and indices, sounds are drawn by the
            seed, and only those drawn are read; any other iterable is read from its start.
        features: MFCC without statistics get those of the sample.
        num_units: K.
        sample_s: seconds of sound to look at; memory is `sample_s` * 50 * D * 4 bytes.
        seed: of the draw and of the k-means.
        batch_size: frames in one step of the k-means.
        device: for the features.
        progress: is told how many of the seconds of sound were looked at.

    Raises:
        ConfigError: a number is impossible.
        InputError: there is too little sound for so many units, or a sound is not finite.
        MissingExtraError: scikit-learn is not installed.
    """
    if num_units < 2:
        raise ConfigError(f"num_units must be at least 2, got {num_units}")
    if not 0 < sample_s < math.inf:
        raise ConfigError(f"sample_s must be above 0 and finite, got {sample_s}")
    if not 0 <= seed <= MAX_SEED:
        raise ConfigError(f"seed must be 0 to {MAX_SEED}, got {seed}")
    try:
        from sklearn.cluster import MiniBatchKMeans
        from threadpoolctl import threadpool_limits  # comes with scikit-learn
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "data", "fitting units") from error
    began = time.monotonic()
    features = features.to(device)
    pieces, sound_s = _sample(_in_drawn_order(waveforms, seed), features, sample_s, progress)
    frames = torch.cat(pieces) if pieces else torch.zeros(0, features.dim)
    _check_enough(frames, num_units, sound_s)
    features, frames = features.fitted(frames)
    model: Any = MiniBatchKMeans(
        n_clusters=num_units,
        init="k-means++",
        n_init=cast(Any, 3),
        max_iter=100,
        batch_size=batch_size,
        max_no_improvement=100,
        tol=0.0,
        reassignment_ratio=0.0,
        random_state=seed,
    )
    with threadpool_limits(1):  # threads would sum in another order each time
        model.fit(frames.numpy())
    units = KMeansUnits(torch.from_numpy(model.cluster_centers_.astype(np.float32)))
    labels = units.assign(frames)
    shares = torch.bincount(labels, minlength=num_units).double() / len(labels)
    runs = sum(
        len(merge_repeats(piece.numpy()).units) for piece in labels.split([len(p) for p in pieces])
    )
    report = FitReport(
        num_units=num_units,
        seed=seed,
        num_sounds=len(pieces),
        sound_s=sound_s,
        num_frames=len(frames),
        inertia=float((frames - units.centroids[labels]).square().sum(dim=1).double().mean()),
        used_units=int((shares > 0).sum()),
        perplexity=float(torch.special.entr(shares).sum().exp()),
        merged_per_s=runs / sound_s,
        steps=int(model.n_steps_),
        seconds=time.monotonic() - began,
    )
    logger.info("units fitted num_units=%d frames=%d", num_units, len(frames))
    return UnitExtractor(units.to(device), features), report


@runtime_checkable
class _Indexed(Protocol):
    """A sequence, as far as drawing from it goes."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Waveform: ...


def _in_drawn_order(waveforms: Iterable[Waveform], seed: int) -> Iterator[Waveform]:
    if not isinstance(waveforms, _Indexed):
        yield from waveforms
        return
    for index in np.random.default_rng(seed).permutation(len(waveforms)):
        yield waveforms[int(index)]


def _sample(
    waveforms: Iterable[Waveform],
    features: UnitFeatures,
    sample_s: float,
    progress: Callable[[float, float], None] | None,
) -> tuple[list[Float[Tensor, "_ D"]], float]:
    """Return the frames of the first `sample_s` seconds, on the CPU, and the seconds there are."""
    pieces: list[Tensor] = []
    wanted = left = round(sample_s * SAMPLE_RATE)
    for number, waveform in enumerate(waveforms):
        waveform = waveform[:left]
        pieces.append(_frames(waveform, features, f"sound {number}").cpu())
        left -= len(waveform)
        if progress is not None:
            progress((wanted - left) / SAMPLE_RATE, sample_s)
        if left <= 0:
            break
    return pieces, (wanted - left) / SAMPLE_RATE


def _frames(waveform: Waveform, features: UnitFeatures, name: str) -> Float[Tensor, "F D"]:
    if not np.isfinite(waveform).all():
        raise InputError(f"{name} must hold finite samples, got NaN or infinity")
    frames = features.extract(torch.from_numpy(np.ascontiguousarray(waveform)))
    if not bool(frames.isfinite().all()):
        raise InputError(f"the features of {name} must be finite, got NaN or infinity")
    return frames


def _check_enough(frames: Float[Tensor, "N D"], num_units: int, sound_s: float) -> None:
    different = len(np.unique(frames.numpy(), axis=0)) if len(frames) < 100 * num_units else None
    found = len(frames) if different is None else different
    if found < num_units:
        raise InputError(
            f"num_units must be at most the number of different frames, got {num_units} for "
            f"{found} in {sound_s:.1f} s of sound; give more sound or ask for fewer units"
        )
    if found < _FEW_FRAMES * num_units:
        logger.warning("few frames for each unit frames=%d num_units=%d", found, num_units)


class UnitExtractor:
    """Names the units of a sound: features, then the nearest centre of each frame.

    Raises:
        ConfigError: the features are not as wide as the centres.
    """

    def __init__(self, kmeans: KMeansUnits, features: UnitFeatures) -> None:
        if features.dim != kmeans.centroids.shape[1]:
            raise ConfigError(
                f"features must be {kmeans.centroids.shape[1]} wide as the centres, "
                f"got {features.dim}"
            )
        self.kmeans, self.features = kmeans, features

    @property
    def num_units(self) -> int:
        """K: how many units there are."""
        return self.kmeans.num_units

    @property
    def sha256(self) -> str:
        """Hash of `kmeans.npy`: names these units in a manifest."""
        return hashlib.sha256(self._centres()).hexdigest()

    def units(self, waveform: Waveform, *, name: str = "sound") -> SoundUnits:
        """Return the units of (S,) samples at 16 kHz.

        Raises:
            InputError: a sample is not finite; the message calls the sound by its `name`.
        """
        labels = self.kmeans.assign(_frames(waveform, self.features, name))
        return merge_repeats(labels.cpu().numpy())

    def save(self, folder: str | os.PathLike[str], report: FitReport | None = None) -> None:
        """Write `kmeans.npy` and `features.json`, each whole or not at all.

        Raises:
            OutputError: the folder cannot be written to.
        """
        folder = Path(folder)
        description = {
            "format": _FORMAT,
            "num_units": self.num_units,
            "dim": self.features.dim,
            "rate_hz": self.features.rate_hz,
            "sample_rate": SAMPLE_RATE,
            "sha256": self.sha256,
            "features": self.features.describe(),
            "fit": None if report is None else _without_time(report),
        }
        text = json.dumps(description, indent=2, allow_nan=False) + "\n"
        if any(place.is_file() for place in (folder, *folder.parents)):
            raise OutputError(f"{folder} must be a folder, got a file on the way to it")
        write_bytes(folder / CENTRES, self._centres())
        write_text(folder / DESCRIPTION, text)

    def _centres(self) -> bytes:
        stream = BytesIO()
        np.save(stream, self.kmeans.centroids.cpu().numpy(), allow_pickle=False)
        return stream.getvalue()

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        *,
        features: UnitFeatures | None = None,
        source: str | None = None,
        device: str | torch.device = "cpu",
    ) -> "UnitExtractor":
        """Load a folder of units.

        Args:
            folder: with `kmeans.npy` and `features.json`.
            features: to use where there is no `features.json`, as beside converted centres.
            source: where the model behind the features is now, if it moved.
            device: where to compute.

        Raises:
            CheckpointError: a file is missing, damaged, or not of the other.
            ConfigError: the features cannot be built or are not as wide as the centres.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise CheckpointError(f"{folder} must be a folder of units, got no such folder")
        kmeans = KMeansUnits.from_file(folder / CENTRES)
        if features is None:
            description = _read_description(folder / DESCRIPTION)
            found = hashlib.sha256((folder / CENTRES).read_bytes()).hexdigest()
            if description["sha256"] != found:
                raise CheckpointError(
                    f"{folder / CENTRES} must be the centres of {DESCRIPTION}, whose sha256 is "
                    f"{str(description['sha256'])[:12]}, got {found[:12]}; fit the units again"
                )
            features = features_from(description["features"], source=source, device=device)
        return cls(kmeans.to(device), features.to(device))


def _without_time(report: FitReport) -> dict[str, Any]:
    """Return what is the same each time."""
    return {name: value for name, value in asdict(report).items() if name != "seconds"}


def _read_description(path: Path) -> Mapping[str, Any]:
    try:
        description = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} must say which features the centres are of, got no such file; "
            "fit the units again, or name the features"
        ) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} must be readable JSON, got: {error}") from error
    if not isinstance(description, dict) or description.get("format") != _FORMAT:
        raise CheckpointError(f"{path} must be of format {_FORMAT}, got another")
    if not isinstance(description.get("features"), dict) or "sha256" not in description:
        raise CheckpointError(f"{path} must hold features and sha256, got {sorted(description)}")
    return description
