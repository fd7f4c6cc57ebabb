"""Features of sound that k-means turns into units: what every kind of them gives.

Each gives its frames at 50 Hz and can say in JSON what it is, so that a k-means file never meets
other features than those it was fitted on. MFCC, HuBERT and the speech encoder are the kinds.
"""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from llama_omni.errors import ConfigError
from llama_omni.model.features_mfcc import MfccFeatures


@runtime_checkable
class UnitFeatures(Protocol):
    """What gives one vector each 20 ms of sound."""

    @property
    def rate_hz(self) -> int:
        """Frames a second: 50."""
        ...

    @property
    def dim(self) -> int:
        """D: width of a frame."""
        ...

    def num_frames(self, num_samples: int) -> int:
        """Return F for S samples."""
        ...

    def extract(self, waveform: Float[Tensor, " S"]) -> Float[Tensor, "F D"]:
        """Return the float32 frames of one sound at 16 kHz, on the device of the features."""
        ...

    def extract_batch(
        self, waveforms: Float[Tensor, "B S"], lengths: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B F D"], Int[Tensor, " B"]]:
        """Return the frames of several sounds, zero beyond each row's, and how many each has."""
        ...

    def fitted(self, frames: Float[Tensor, "N D"]) -> tuple["UnitFeatures", Float[Tensor, "N D"]]:
        """Learn from a data set's frames, if anything; return also the frames as they become."""
        ...

    def to(self, device: str | torch.device) -> "UnitFeatures":
        """Return the same features on another device."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return what `features_from` builds the same features from; goes into JSON."""
        ...


def features_from(
    description: Mapping[str, Any], *, source: str | None = None, device: str | torch.device = "cpu"
) -> UnitFeatures:
    """Build features again from what their `describe` gave.

    Args:
        description: with `kind` and the fields of that kind.
        source: folder or hub id of the model where it has moved; its weights must be the same.
        device: where to compute.

    Raises:
        ConfigError: unknown kind, or fields that are missing, unknown or impossible.
        CheckpointError: the model that the features come from cannot be loaded, or is another.
    """
    fields = dict(description)
    kind = fields.pop("kind", None)
    if source is not None and kind != "mfcc":
        fields["source"] = source
    try:
        match kind:
            case "mfcc":
                return MfccFeatures.from_description(fields).to(device)
            case "hubert":
                from llama_omni.model.features_hubert import HubertFeatures

                return HubertFeatures.from_description(fields, device=device)
            case "encoder":
                from llama_omni.model.features_encoder import EncoderFeatures

                return EncoderFeatures.from_description(fields, device=device)
            case _:
                raise ConfigError(f"kind of features must be mfcc, hubert or encoder, got {kind!r}")
    except (TypeError, KeyError) as error:
        raise ConfigError(f"features must have the fields of {kind!r}, got: {error}") from error
