"""A speech encoder with the two CTC heads that it is pretrained under.

Characters are asked for at a middle layer, tokens of the language model at the last: characters
alone stayed poor, tokens alone start slowly. Only the encoder is used afterwards.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import WhisperConfig

from llama_omni.errors import CheckpointError, ConfigError
from llama_omni.model.ctc import collapse, ctc_loss
from llama_omni.model.encoder import SpeechEncoder, feature_lengths


class CTCEncoder(nn.Module):
    """`SpeechEncoder` and its heads.

    Args:
        config: Whisper's configuration.
        alphabet: The characters that transcripts are written with.
        vocab_size: Tokens of the language model.
        aux_layer: Layers below the characters' head.
    """

    def __init__(
        self, config: WhisperConfig, *, alphabet: str, vocab_size: int, aux_layer: int
    ) -> None:
        super().__init__()
        if not 1 <= aux_layer <= config.encoder_layers:
            raise ConfigError(
                f"encoder.aux_layer must be 1 to {config.encoder_layers}, got {aux_layer}"
            )
        self.alphabet, self.vocab_size, self.aux_layer = alphabet, vocab_size, aux_layer
        self.encoder = SpeechEncoder(config)
        width = config.d_model
        self.aux_norm = nn.LayerNorm(width)
        self.characters = nn.Linear(width, len(alphabet) + 1)  # the blank last
        self.tokens = nn.Linear(width, vocab_size + 1)
        self._middle = torch.empty(0)
        self.encoder.layers[aux_layer - 1].register_forward_hook(self._keep)

    def forward(
        self, mel: Float[Tensor, "B n_mels F"], mel_lengths: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B N chars"], Float[Tensor, "B N labels"]]:
        """Return the logits of characters and of tokens at 50 Hz, the blanks last."""
        features = self.encoder(mel, mel_lengths)  # (B, N, E)
        middle, self._middle = self._middle, torch.empty(0)
        return self.characters(self.aux_norm(middle)), self.tokens(features)

    def losses(
        self,
        mel: Float[Tensor, "B n_mels F"],
        mel_lengths: Int[Tensor, " B"],
        *,
        characters: Int[Tensor, "B C"],
        tokens: Int[Tensor, "B U"],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Return the CTC losses of characters and of tokens, each summed over the batch.

        A row whose sound is too short for its transcript counts nothing.
        """
        character_logits, token_logits = self(mel, mel_lengths)
        frames = feature_lengths(mel_lengths)
        return (
            ctc_loss(character_logits, frames, characters, normaliser=1, infeasible="zero"),
            ctc_loss(token_logits, frames, tokens, normaliser=1, infeasible="zero"),
        )

    @torch.no_grad()
    def recognise(
        self, mel: Float[Tensor, "B n_mels F"], mel_lengths: Int[Tensor, " B"]
    ) -> list[list[int]]:
        """Return each row's tokens, read off its best labels."""
        return self.read(self(mel, mel_lengths)[1], mel_lengths)

    def read(
        self, token_logits: Float[Tensor, "B N labels"], mel_lengths: Int[Tensor, " B"]
    ) -> list[list[int]]:
        """Return each row's tokens: the best label of every frame, collapsed."""
        best = token_logits.argmax(dim=-1).tolist()  # B rows of N
        counts = feature_lengths(mel_lengths).tolist()
        return [
            collapse(row[:count], blank=self.vocab_size)
            for row, count in zip(best, counts, strict=True)
        ]

    def save(self, folder: Path, state: Mapping[str, Tensor] | None = None) -> None:
        """Write the encoder as a Transformers folder, and its heads beside it.

        Args:
            folder: Is made where it is not there.
            state: All its weights, where its own parameters are parts of them; None: its own.
        """
        folder.mkdir(parents=True, exist_ok=True)
        state = self.state_dict() if state is None else state
        within = "encoder."
        heard = {k.removeprefix(within): v for k, v in state.items() if k.startswith(within)}
        self.encoder.save_pretrained(folder, state_dict=heard)
        heads = {k: v.contiguous() for k, v in state.items() if not k.startswith(within)}
        save_file(heads, folder / "heads.safetensors")
        described = {
            "alphabet": self.alphabet,
            "vocab_size": self.vocab_size,
            "aux_layer": self.aux_layer,
        }
        (folder / "heads.json").write_text(json.dumps(described, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "CTCEncoder":
        """Read what `save` wrote.

        Raises:
            CheckpointError: There is no such folder, or it is not whole.
        """
        try:
            described = json.loads((folder / "heads.json").read_text())
            model = cls(WhisperConfig.from_pretrained(folder), **described)
            encoder = load_file(folder / "model.safetensors")
            heads = load_file(folder / "heads.safetensors")
            model.load_state_dict({f"encoder.{k}": v for k, v in encoder.items()} | heads)
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            raise CheckpointError(
                f"{folder} must hold a pretrained encoder, got: {error}"
            ) from error
        return model

    def _keep(self, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        self._middle = output
