"""Features of sound from our Whisper-layout speech encoder: an experiment.

They know what was said better than how it sounded, so units of them are not yet shown to speak.
"""

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import WhisperConfig

from llama_omni.audio import HOP, UNIT_RATE
from llama_omni.errors import CheckpointError
from llama_omni.model.config import OmniConfig
from llama_omni.model.encoder import SpeechEncoder, log_mel
from llama_omni.model.features_hubert import IF_MOVED, check_weights, extract_rows, hash_of_weights

_PREFIXES = ("encoder.", "model.encoder.", "")  # ours, Whisper's, an encoder alone
_MIN_SAMPLES = 400  # the mirrored edges of the spectrogram need 200 and one


class EncoderFeatures:
    """The output of a speech encoder at 50 Hz.

    Sound is cut at the encoder's window (30 s for Whisper); a piece of n samples gives
    (n // 160 + 1) // 2 frames, and one shorter than 400 samples none.

    Args:
        encoder: ours, in the layout of Whisper's.
        source: folder it came from.
    """

    rate_hz = UNIT_RATE

    def __init__(self, encoder: SpeechEncoder, *, source: str) -> None:
        self.encoder = encoder.float().eval().requires_grad_(False)
        self.source = source
        self._sha256: str | None = None

    @classmethod
    def from_pretrained(
        cls, source: str | PathLike[str], *, device: str | torch.device = "cpu"
    ) -> "EncoderFeatures":
        """Load the encoder of a folder: a whole model of ours, a Whisper, or an encoder alone.

        Raises:
            CheckpointError: a file is missing or damaged, or a tensor is missing or misshapen.
        """
        # What is described must be found from another working directory too.
        folder = Path(source).resolve()
        if Path(source).is_absolute() and not folder.is_dir():
            raise CheckpointError(f"{source} must be an encoder's folder, found none; {IF_MOVED}")
        encoder = SpeechEncoder(_read_config(folder))
        try:
            encoder.load_state_dict(_read_tensors(folder))
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(f"{folder} must hold a speech encoder, got: {reason}") from error
        return cls(encoder.to(device), source=str(folder))  # pyright: ignore[reportArgumentType]

    @property
    def dim(self) -> int:
        """D: width of the encoder."""
        return self.encoder.config.d_model

    @property
    def _chunk_samples(self) -> int:
        return self.encoder.window * HOP

    def num_frames(self, num_samples: int) -> int:
        """Return F: the sum over pieces of (n // 160 + 1) // 2."""
        whole, rest = divmod(num_samples, self._chunk_samples)
        last = (rest // HOP + 1) // 2 if rest >= _MIN_SAMPLES else 0
        return whole * (self.encoder.window // 2) + last

    @torch.no_grad()
    def extract(self, waveform: Float[Tensor, " S"]) -> Float[Tensor, "F D"]:
        """Return the frames of one sound at 16 kHz."""
        sound = waveform.to(self.encoder.device, torch.float32)
        num_mels = self.encoder.config.num_mel_bins
        frames = [
            self.encoder(log_mel(chunk[None], num_mels=num_mels))[0]
            for chunk in sound.split(self._chunk_samples)
            if len(chunk) >= _MIN_SAMPLES
        ]  # (F', D) each
        return torch.cat(frames) if frames else sound.new_zeros(0, self.dim)

    @torch.no_grad()
    def extract_batch(
        self, waveforms: Float[Tensor, "B S"], lengths: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B F D"], Int[Tensor, " B"]]:
        """Return the frames of several sounds, zero beyond each row's, and how many each has."""
        return extract_rows(self, waveforms, lengths)

    def fitted(
        self, frames: Float[Tensor, "N D"]
    ) -> tuple["EncoderFeatures", Float[Tensor, "N D"]]:
        """Return all as it is: the encoder learns nothing here."""
        return self, frames

    def to(self, device: str | torch.device) -> "EncoderFeatures":
        """Move the encoder and return the features."""
        self.encoder.to(device)  # pyright: ignore[reportArgumentType]
        return self

    def describe(self) -> dict[str, Any]:
        """Return where the encoder came from and which weights it has."""
        if self._sha256 is None:
            self._sha256 = hash_of_weights(self.encoder)
        return {"kind": "encoder", "source": self.source, "sha256": self._sha256}

    @classmethod
    def from_description(
        cls, fields: Mapping[str, Any], *, device: str | torch.device = "cpu"
    ) -> "EncoderFeatures":
        """Load what `describe` told of; other weights are refused."""
        knobs = dict(fields)
        sha256 = knobs.pop("sha256", None)
        features = cls.from_pretrained(knobs.pop("source"), device=device, **knobs)
        check_weights(features.source, features.describe()["sha256"], sha256)
        return features


def _read_config(folder: Path) -> WhisperConfig:
    path = folder / "config.json"
    try:
        kind = json.loads(path.read_bytes()).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} must be a readable config.json, got: {error}") from error
    if kind == OmniConfig.model_type:
        return OmniConfig.from_pretrained(folder).encoder
    if kind != "whisper":
        raise CheckpointError(
            f"model_type in {path} must be 'whisper' or {OmniConfig.model_type!r}, got {kind!r}"
        )
    return WhisperConfig.from_pretrained(folder)


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    """Return the encoder's tensors by their names in it, and nothing of the rest of the model."""
    tensors: dict[str, Tensor] = {}
    names: dict[str, Path] = {}
    try:
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                names |= dict.fromkeys(file.keys(), path)
        prefix = next((p for p in _PREFIXES if f"{p}conv1.weight" in names), None)
        if prefix is None:
            raise CheckpointError(f"{folder} must hold a speech encoder's tensors, got none")
        for path in sorted(set(names.values())):
            with safe_open(path, framework="pt") as file:
                for name in file.keys():
                    if name.startswith(prefix):
                        tensors[name.removeprefix(prefix)] = file.get_tensor(name).float()
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder} must hold whole safetensors, got: {error}") from error
    return tensors
