"""Speech adapter: Whisper frames -> embeddings that the language model can read."""

from jaxtyping import Float
from torch import Tensor, nn

from llama_omni.model.config import AdapterConfig


class SpeechAdapter(nn.Module):
    """Concatenate every `stack` frames, then project them with a two-layer perceptron."""

    def __init__(self, config: AdapterConfig, *, encoder_dim: int, llm_dim: int) -> None:
        super().__init__()
        self.stack = config.stack
        self.linear1 = nn.Linear(encoder_dim * config.stack, config.hidden_dim)
        self.linear2 = nn.Linear(config.hidden_dim, llm_dim)

    def forward(self, features: Float[Tensor, "B N E"]) -> Float[Tensor, "B P D"]:
        """Shorten and project encoder features.

        Args:
            features: (B, N, E) encoder output at 50 frames per second.

        Returns:
            (B, P, D) speech embeddings at 50 / stack per second, P = N // stack. The last
            N % stack frames (at most 80 ms for stack = 5) are dropped, as in the paper's code.

        Source:
            Section 2.2; reference `EncoderProjectorConcat`.
        """
        B, N, E = features.shape
        P = N // self.stack
        stacked = features[:, : P * self.stack].reshape(B, P, E * self.stack)  # (B, P, k*E)
        return self.linear2(self.linear1(stacked).relu())  # (B, P, D)
