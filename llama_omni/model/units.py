"""Units of sound: the nearest k-means centre of each HuBERT frame, then repeats merged.

Released centres come as a joblib pickle, and reading a pickle can run any program: that needs an
explicit yes. Our own format is `.npy`.
"""

import pickle
import warnings
from collections.abc import Sequence
from itertools import groupby
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from llama_omni.errors import CheckpointError, InputError, MissingExtraError

_NPY_MAGIC = b"\x93NUMPY"
# What unpickling a file that is no such pickle, or of an unknown library, raises.
_UNPICKLING_ERRORS = (
    OSError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, ImportError,
    pickle.UnpicklingError,
)  # fmt: skip


class KMeansUnits:
    """Name each feature vector by its nearest centre."""

    def __init__(self, centroids: Float[Tensor, "K D"], *, batch_size: int = 8192) -> None:
        self.centroids = centroids.float()
        self.batch_size = batch_size  # vectors compared at once: bounds memory
        self._norms = self.centroids.pow(2).sum(dim=1)  # (K,)

    @classmethod
    def from_file(cls, path: str | PathLike[str], *, trust_pickle: bool = False) -> "KMeansUnits":
        """Read centres, see `read_centroids`."""
        return cls(torch.from_numpy(read_centroids(path, trust_pickle=trust_pickle)))

    @property
    def num_units(self) -> int:
        """K: how many centres there are."""
        return len(self.centroids)

    def to(self, device: str | torch.device) -> "KMeansUnits":
        """Return the same units with their centres on another device."""
        return KMeansUnits(self.centroids.to(device), batch_size=self.batch_size)

    def assign(self, features: Float[Tensor, "*batch D"]) -> Int[Tensor, "*batch"]:
        """Return the unit of each vector; the first of equally near ones.

        Raises:
            InputError: the vectors are not as wide as the centres.

        Source:
            The reference's argmin of |x|^2 - 2 x.c + |c|^2, in float32.
        """
        D = self.centroids.shape[1]
        if features.shape[-1] != D:
            raise InputError(f"features must be {D} wide as the centres, got {features.shape[-1]}")
        rows = features.reshape(-1, D)
        units = [self._nearest(batch.float()) for batch in rows.split(self.batch_size)]
        return torch.cat(units).view(features.shape[:-1])

    def _nearest(self, batch: Float[Tensor, "N D"]) -> Int[Tensor, " N"]:
        cross = batch @ self.centroids.T  # (N, K)
        distances = batch.pow(2).sum(dim=1, keepdim=True) - 2 * cross + self._norms
        return distances.argmin(dim=1)


def reduce_units(units: Sequence[int]) -> list[int]:
    """Merge adjacent repeats: what the speech decoder learns to say."""
    return [unit for unit, _ in groupby(units)]


def read_centroids(path: str | PathLike[str], *, trust_pickle: bool = False) -> np.ndarray:
    """Return the (K, D) float32 centres in a file.

    Args:
        path: `.npy`, or the joblib pickle of a scikit-learn k-means.
        trust_pickle: open a pickle, which can run any program on this machine as its user.

    Raises:
        CheckpointError: the file cannot be read, is an untrusted pickle, or holds no centres.
        MissingExtraError: a pickle needs joblib and scikit-learn.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            is_npy = file.read(len(_NPY_MAGIC)) == _NPY_MAGIC
    except OSError as error:
        raise CheckpointError(f"{path} must be a readable file, got: {error.strerror}") from error
    if is_npy:
        try:
            centroids = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise CheckpointError(f"{path} must be a whole .npy file, got: {error}") from error
    elif trust_pickle:
        centroids = _unpickle(path)
    else:
        raise CheckpointError(
            f"{path} must be a .npy file, got something else, probably a pickle: opening one can "
            "run any program hidden in it on this machine as you; if you trust its source, "
            "allow it with --trust-pickle (trust_pickle=True)"
        )
    if centroids.ndim != 2 or not centroids.size or centroids.dtype.kind != "f":
        raise CheckpointError(
            f"{path} must hold (K, D) floats, got shape {centroids.shape} of {centroids.dtype}"
        )
    if not np.isfinite(centroids).all():
        raise CheckpointError(f"{path} must hold finite centres, got NaN or infinity")
    return np.ascontiguousarray(centroids, dtype=np.float32)


def _unpickle(path: Path) -> np.ndarray:
    try:
        import joblib
    except ImportError as error:
        raise MissingExtraError("joblib", "data", "a pickled k-means file") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an old scikit-learn made it; only centres are used
            model: Any = joblib.load(path)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.partition(".")[0] == "sklearn":
            raise MissingExtraError("scikit-learn", "data", "a pickled k-means file") from error
        raise CheckpointError(f"{path} must be a readable pickle, got: {error}") from error
    except _UNPICKLING_ERRORS as error:
        raise CheckpointError(f"{path} must be a readable pickle, got: {error!r}") from error
    centroids = getattr(model, "cluster_centers_", model)
    if not isinstance(centroids, np.ndarray):
        raise CheckpointError(
            f"{path} must hold a k-means with cluster_centers_, got {type(model).__name__}"
        )
    return centroids
