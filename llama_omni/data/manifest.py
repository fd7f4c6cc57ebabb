"""What a manifest says of a data set: made from what, by what, and each shard's hash.

It holds no date and no place, so that the same build gives the same manifest.
"""

import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import llama_omni
from llama_omni.audio import SAMPLE_RATE, UNIT_RATE
from llama_omni.data.origin import Origin
from llama_omni.data.recipe import BuildRecipe, without_place
from llama_omni.data.records import Reject
from llama_omni.data.shards import FORMAT
from llama_omni.interfaces import Voice

_PACKAGES = ("numpy", "pyarrow", "soundfile", "soxr", "torch", "scikit-learn")


def make_manifest(
    recipe: BuildRecipe,
    shards: Sequence[dict[str, Any]],
    rejects: Iterable[Reject],
    voices: Mapping[str, Voice],
    units: dict[str, Any] | None,
    origins: Sequence[Origin],
) -> dict[str, Any]:
    """Return a manifest.

    Args:
        recipe: How it was made.
        shards: What `write_shard` said of each, as dicts.
        rejects: All of them.
        voices: By their names.
        units: What is known of the units, or None where there are none.
        origins: The files that the records were read from.
    """
    counts: Counter[str] = Counter()
    for shard in shards:
        counts[shard["split"]] += shard["rows"]
    if units is not None:
        units = units | {"sample_rate": SAMPLE_RATE, "frame_rate": UNIT_RATE}
    return {
        "format": FORMAT,
        "recipe": recipe.published(),
        "sources": list(origins),
        "seed": recipe.seed,
        "sample_rate": SAMPLE_RATE,
        "counts": dict(counts),
        "rejects": dict(Counter(row.stage for row in rejects)),
        "voices": {
            without_place(name): asdict(replace(voice, name=without_place(voice.name)))
            for name, voice in sorted(voices.items())
        },
        "units": units,
        "shards": list(shards),
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    found = {"llama-omni": llama_omni.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
