"""Features of sound from a layer of HuBERT: what released units are made of.

Unusual: fairseq, which made the released units, gives the model a waveform as it is (mHuBERT and
the base models; the large ones want it normalised) and cuts it every 100 s.
"""

import hashlib
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import HubertConfig, HubertModel
from transformers.utils import logging as transformers_logging

from llama_omni.audio import UNIT_HOP, UNIT_RATE
from llama_omni.errors import CheckpointError, ConfigError, InputError

# Ends what a user is told whose units were made with a model that lies elsewhere now.
IF_MOVED = "if it moved: data units extract has --source; else change source in features.json"

CHUNK_SAMPLES = 1_600_000  # 100 s: fairseq's `max_chunk`
_EPSILON = 1e-5  # of fairseq's layer norm over the waveform


class HubertFeatures:
    """The output of one transformer layer, as `hidden_states[layer]` of Transformers' model.

    A chunk of n samples gives (n - 400) // 320 + 1 frames; chunks know nothing of each other, and a
    last one shorter than 400 samples gives none. Layers above the wanted one are not even loaded.

    Args:
        model: its transformer ends at the wanted layer, see `from_pretrained`.
        source: folder or hub id it came from.
        layer: n; 0 is what the first layer reads.
        normalise: make each waveform zero-mean and unit-variance, before it is cut.
        chunk_samples: longest piece that is computed at once.
    """

    rate_hz = UNIT_RATE

    def __init__(
        self,
        model: HubertModel,
        *,
        source: str,
        layer: int,
        normalise: bool = False,
        chunk_samples: int = CHUNK_SAMPLES,
    ) -> None:
        self.config: Any = model.config
        hop = 1
        for stride in self.config.conv_stride:
            hop *= stride
        if hop != UNIT_HOP:
            raise ConfigError(f"conv_stride of {source} must multiply to {UNIT_HOP}, got {hop}")
        if chunk_samples < self._num_chunk_samples_min():
            raise ConfigError(
                f"chunk_samples must be at least {self._num_chunk_samples_min()}, "
                f"got {chunk_samples}"
            )
        self.model = model.eval().requires_grad_(False)
        self.source, self.layer, self.normalise = source, layer, normalise
        self.chunk_samples = chunk_samples
        self._sha256: str | None = None

    @classmethod
    def from_pretrained(
        cls,
        source: str | PathLike[str],
        *,
        layer: int,
        normalise: bool = False,
        chunk_samples: int = CHUNK_SAMPLES,
        device: str | torch.device = "cpu",
    ) -> "HubertFeatures":
        """Load the layers up to the wanted one from a folder or the hub.

        Raises:
            CheckpointError: there is no such HuBERT, or a tensor is missing or misshapen.
            ConfigError: the model has no such layer, or is not at 50 Hz.
        """
        # What is described must be found from another working directory too.
        source = str(Path(source).resolve() if Path(source).is_dir() else source)
        config = _read_config(source)
        layers = config.num_hidden_layers
        if not 0 <= layer <= layers:
            raise ConfigError(f"layer must be 0 to {layers}, all that {source} has, got {layer}")
        config.num_hidden_layers = layer
        model = _load(source, config)
        if config.do_stable_layer_norm:  # fairseq leaves out this norm where a layer is asked for
            model.encoder.layer_norm = nn.Identity()
        return cls(
            model.to(device),  # pyright: ignore[reportArgumentType]
            source=source,
            layer=layer,
            normalise=normalise,
            chunk_samples=chunk_samples,
        )

    @property
    def dim(self) -> int:
        """D: width of the model."""
        return self.config.hidden_size

    def num_frames(self, num_samples: int) -> int:
        """Return F: the sum over chunks of (n - 400) // 320 + 1."""
        whole, rest = divmod(num_samples, self.chunk_samples)
        return whole * self._num_chunk_frames(self.chunk_samples) + self._num_chunk_frames(rest)

    def _num_chunk_frames(self, num_samples: int) -> int:
        for kernel, stride in zip(self.config.conv_kernel, self.config.conv_stride, strict=True):
            num_samples = max((num_samples - kernel) // stride + 1, 0)
        return num_samples

    def _num_chunk_samples_min(self) -> int:
        """Return 400: the least samples that give a frame."""
        needed = 1
        kernels, strides = self.config.conv_kernel, self.config.conv_stride
        for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
            needed = (needed - 1) * stride + kernel
        return needed

    @torch.no_grad()
    def extract(self, waveform: Float[Tensor, " S"]) -> Float[Tensor, "F D"]:
        """Return the frames of one sound at 16 kHz."""
        sound = waveform.to(self.model.device, torch.float32)
        if self.normalise and len(sound):
            sound = nn.functional.layer_norm(sound, sound.shape, eps=_EPSILON)
        frames = [
            self.model(chunk[None]).last_hidden_state[0]
            for chunk in sound.split(self.chunk_samples)
            if self._num_chunk_frames(len(chunk))
        ]  # (F', D) each
        return torch.cat(frames) if frames else sound.new_zeros(0, self.dim)

    @torch.no_grad()
    def extract_batch(
        self, waveforms: Float[Tensor, "B S"], lengths: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B F D"], Int[Tensor, " B"]]:
        """Return the frames of several sounds, zero beyond each row's, and how many each has.

        Rows are computed one by one: the first convolution's norm looks along time, so that
        padding would change them.
        """
        return extract_rows(self, waveforms, lengths)

    def fitted(self, frames: Float[Tensor, "N D"]) -> tuple["HubertFeatures", Float[Tensor, "N D"]]:
        """Return all as it is: HuBERT learns nothing here."""
        return self, frames

    def to(self, device: str | torch.device) -> "HubertFeatures":
        """Move the model and return the features."""
        self.model.to(device)  # pyright: ignore[reportArgumentType]
        return self

    @property
    def sha256(self) -> str:
        """Hash of the weights in use."""
        if self._sha256 is None:
            self._sha256 = hash_of_weights(self.model)
        return self._sha256

    def describe(self) -> dict[str, Any]:
        """Return where the model came from, which weights it has, and how it is used."""
        return {
            "kind": "hubert",
            "source": self.source,
            "layer": self.layer,
            "normalise": self.normalise,
            "chunk_samples": self.chunk_samples,
            "sha256": self.sha256,
        }

    @classmethod
    def from_description(
        cls, fields: Mapping[str, Any], *, device: str | torch.device = "cpu"
    ) -> "HubertFeatures":
        """Load what `describe` told of; other weights are refused."""
        knobs = dict(fields)
        sha256 = knobs.pop("sha256", None)
        features = cls.from_pretrained(knobs.pop("source"), device=device, **knobs)
        check_weights(features.source, features.sha256, sha256)
        return features


def extract_rows(
    features: Any, waveforms: Float[Tensor, "B S"], lengths: Int[Tensor, " B"]
) -> tuple[Float[Tensor, "B F D"], Int[Tensor, " B"]]:
    """Do what `extract_batch` promises with `extract`, row by row."""
    S = waveforms.shape[1]
    if bool((lengths > S).any()) or bool((lengths < 0).any()):
        raise InputError(f"lengths must be 0 to {S} samples, got {lengths.tolist()}")
    rows = [
        features.extract(row[:length])
        for row, length in zip(waveforms, lengths.tolist(), strict=True)
    ]
    padded = nn.utils.rnn.pad_sequence(rows, batch_first=True)  # (B, F, D)
    return padded, torch.tensor([len(row) for row in rows], device=padded.device)


def hash_of_weights(model: nn.Module) -> str:
    """Return the SHA-256 of a model's tensors and their names, wherever they are."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def check_weights(source: str, found: str, expected: str | None) -> None:
    """Refuse weights that are not those which units were made with."""
    if expected is not None and found != expected:
        raise CheckpointError(
            f"{source} must hold the weights that the units were fitted on, whose sha256 is "
            f"{expected[:12]}, got {found[:12]}"
        )


def _read_config(source: str) -> HubertConfig:
    if Path(source).exists() and not (Path(source) / "config.json").is_file():
        raise CheckpointError(f"{source} must be a folder with a HuBERT, got no config.json in it")
    if Path(source).is_absolute() and not Path(source).exists():
        raise CheckpointError(f"{source} must be a folder with a HuBERT, found none; {IF_MOVED}")
    try:
        values, _ = HubertConfig.get_config_dict(source)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{source} must be a folder or hub id of a HuBERT, got: {reason}"
        ) from error
    if values.get("model_type") != "hubert":
        raise CheckpointError(
            f"model_type of {source} must be 'hubert', got {values.get('model_type')!r}"
        )
    try:
        return HubertConfig.from_dict(values)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"config.json of {source} must describe a HuBERT: {error}") from error


def _load(source: str, config: HubertConfig) -> Any:
    """Load the model, and refuse what Transformers would fill with random numbers."""
    verbosity = transformers_logging.get_verbosity()
    bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        loaded: Any = HubertModel.from_pretrained(
            source,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they come in the info, and are refused below
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{source} must hold the weights of a HuBERT, got: {reason}"
        ) from error
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bar:
            transformers_logging.enable_progress_bar()
    model, info = loaded
    missing = set(info["missing_keys"]) - {"masked_spec_embed"}  # for training only
    if missing:
        raise CheckpointError(f"{source} must hold tensor {min(missing)}, got none")
    if info["mismatched_keys"]:
        name, found, expected = min(info["mismatched_keys"])
        raise CheckpointError(
            f"tensor {name} of {source} must have shape {tuple(expected)}, got {tuple(found)}"
        )
    return model
