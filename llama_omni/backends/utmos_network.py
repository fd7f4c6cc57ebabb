"""The network of `utmos22_strong`: wav2vec 2.0 base, a bidirectional LSTM, and a projection.

The released file names wav2vec's tensors as fairseq does; `their_name` maps Transformers' names to
those, so that its model serves, and no copy of fairseq's is needed.
"""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import Wav2Vec2Config, Wav2Vec2Model

from llama_omni.errors import CheckpointError
from llama_omni.interfaces import Audio

EMBEDDING_DIM = 128  # of the listening test and of the listener: one row of each is released
LSTM_DIM, PROJECTION_DIM = 512, 2048

# Transformers' names, and what fairseq has in their place; all else is equal.
_RENAMED = (
    (r"^masked_spec_embed$", "mask_emb"),
    (r"^feature_projection\.layer_norm\.", "layer_norm."),
    (r"^feature_projection\.projection\.", "post_extract_proj."),
    (r"^(feature_extractor\.conv_layers\.\d+)\.conv\.", r"\1.0."),
    (r"^(feature_extractor\.conv_layers\.0)\.layer_norm\.", r"\1.2."),
    (r"^encoder\.pos_conv_embed\.conv\.parametrizations\.weight\.original0$", "{}weight_g"),
    (r"^encoder\.pos_conv_embed\.conv\.parametrizations\.weight\.original1$", "{}weight_v"),
    (r"^encoder\.pos_conv_embed\.conv\.", "{}"),
    (r"^(encoder\.layers\.\d+)\.attention\.", r"\1.self_attn."),
    (r"^(encoder\.layers\.\d+)\.layer_norm\.", r"\1.self_attn_layer_norm."),
    (r"^(encoder\.layers\.\d+)\.feed_forward\.intermediate_dense\.", r"\1.fc1."),
    (r"^(encoder\.layers\.\d+)\.feed_forward\.output_dense\.", r"\1.fc2."),
)
_SSL = "wav2vec2."
_TRAINING_ONLY = "wav2vec2.mask_emb"


class UtmosNetwork(nn.Module):
    """From a waveform to a score."""

    def __init__(self, config: Wav2Vec2Config | None = None) -> None:
        super().__init__()
        found = config or Wav2Vec2Config()  # the base model, its norms after the layers
        self.wav2vec2 = Wav2Vec2Model(found)
        self.domain_emb = nn.Parameter(torch.zeros(1, EMBEDDING_DIM))
        self.judge_emb = nn.Parameter(torch.zeros(1, EMBEDDING_DIM))
        width = found.hidden_size + 2 * EMBEDDING_DIM
        self.blstm = nn.LSTM(width, LSTM_DIM, batch_first=True, bidirectional=True)
        self.projection = nn.Sequential(
            nn.Linear(2 * LSTM_DIM, PROJECTION_DIM), nn.ReLU(), nn.Linear(PROJECTION_DIM, 1)
        )

    def forward(self, waveforms: Float[Tensor, "B S"]) -> Float[Tensor, " B"]:
        """Return the mean opinion score of each row of 16 kHz sound."""
        features = self.wav2vec2(waveforms).last_hidden_state  # (B, F, 768)
        B, F, _ = features.shape
        rows = [emb.expand(B, F, EMBEDDING_DIM) for emb in (self.domain_emb, self.judge_emb)]
        hidden, _ = self.blstm(torch.cat([features, *rows], -1))  # (B, F, 2 * 512)
        return self.projection(hidden).mean((1, 2)) * 2 + 3  # (B,)

    @torch.inference_mode()
    def score(self, samples: Audio) -> float:
        """Return the score of (S,) samples at 16 kHz."""
        waveform = torch.from_numpy(samples)[None].to(self.domain_emb.device)
        return float(self(waveform))


def load_utmos(file: Path, *, device: str = "cpu") -> UtmosNetwork:
    """Load the released weights.

    Raises:
        CheckpointError: the file cannot be read, or a tensor is missing, unknown or misshapen.
    """
    theirs = _read(file)
    network = UtmosNetwork()
    ours: dict[str, Tensor] = {}
    for name, tensor in network.state_dict().items():
        wanted = their_name(name)
        if wanted not in theirs and wanted == _TRAINING_ONLY:
            ours[name] = tensor
            continue
        if wanted not in theirs:
            raise CheckpointError(f"{file} must hold tensor {wanted}, got none")
        found = theirs.pop(wanted)
        if found.shape != tensor.shape:
            raise CheckpointError(
                f"tensor {wanted} of {file} must have shape {tuple(tensor.shape)}, "
                f"got {tuple(found.shape)}"
            )
        ours[name] = found.float()
    if theirs:
        raise CheckpointError(f"{file} must hold nothing but UTMOS, got tensor {min(theirs)}")
    network.load_state_dict(ours)
    return network.eval().requires_grad_(False).to(device)


def their_name(name: str) -> str:
    """Return what the released file calls a tensor of `UtmosNetwork`."""
    if not name.startswith(_SSL):
        return name
    plain = name.removeprefix(_SSL)
    for pattern, theirs in _RENAMED:
        plain, count = re.subn(pattern, theirs.replace("{}", "encoder.pos_conv.0."), plain)
        if count:
            break
    return _SSL + plain


def _read(file: Path) -> dict[str, Tensor]:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except (
        OSError,
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        pickle.UnpicklingError,
        SafetensorError,
    ) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{file} must be a whole file of weights that loads without running code, got: {reason}"
        ) from error
    if not isinstance(loaded, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in loaded.items()
    ):
        raise CheckpointError(f"{file} must hold tensors by name, got {type(loaded).__name__}")
    return dict(loaded)
