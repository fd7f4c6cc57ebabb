"""Which units a data set, a model and a vocoder speak of, and whether they are the same.

A speech decoder that learns 200 units from a set of 20 trains to the end and cannot be spoken: so
the three are compared before anything is trained.
"""

import hashlib
from pathlib import Path
from typing import Any

from llama_omni.data.shards import read_manifest
from llama_omni.errors import ConfigError

_CENTRES = "kmeans.npy"


def num_units_of(data: Path) -> int | None:
    """Return the K of a data set's units, None where it was built without.

    Raises:
        InputError: the folder holds no data set.
    """
    return (read_manifest(data).get("units") or {}).get("K")


def check_units(model: int, vocoder: int | None, data: int | None) -> None:
    """Refuse a model, a vocoder and a data set of which two have another number of units.

    Args:
        model: the speech decoder's K.
        vocoder: its K; None: there is none.
        data: the data set's K; None: it has no units, or they are not learnt.

    Raises:
        ConfigError: they differ; names all three.
    """
    if {model, vocoder, data} - {None} == {model}:
        return
    counts = {"the model": model, "the vocoder": vocoder, "the data set": data}
    told = ", ".join(f"{'none' if k is None else k} of {name}" for name, k in counts.items())
    raise ConfigError(f"num_units must be the same in model, vocoder and data set, got {told}")


def check_centres(base: Path, data: Path) -> None:
    """Refuse a model folder whose centres of the units are not those of the data set.

    Raises:
        ConfigError: they differ. Where one of both does not say, nothing is compared.
    """
    units: dict[str, Any] = read_manifest(data).get("units") or {}
    wanted, path = units.get("kmeans_sha256"), base / _CENTRES
    if wanted is None or not path.is_file():
        return
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != wanted:
        raise ConfigError(
            f"{path} must be the centres of the units of {data}, whose SHA-256 is {wanted[:12]}, "
            f"got {found[:12]}; build the set with these (units.folder={base})"
        )
