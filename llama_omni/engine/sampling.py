"""Choosing the next token: greedy, temperature, top-p, with noise that belongs to a position.

The noise is a hash of (seed, position, token), not a generator's next draw, so that batching, other
conversations and cancelled steps never change what a seed gives.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

_MASK = 0xFFFFFFFF


def sample(
    logits: Float[Tensor, "B V"],
    *,
    temperature: Float[Tensor, " B"],
    top_p: Float[Tensor, " B"],
    seed: Int[Tensor, " B"],
    position: Int[Tensor, " B"],
) -> Int[Tensor, " B"]:
    """Choose a token for each row; a temperature of 0 is greedy.

    Args:
        logits: (B, V).
        temperature: (B,) 0 or more.
        top_p: (B,) the smallest set of tokens with this much probability is kept.
        seed: (B,) of each reply.
        position: (B,) of the token in its reply.
    """
    logits = logits.float()
    scaled = logits / temperature.clamp(min=1e-6)[:, None]  # (B, V)
    probabilities, order = scaled.softmax(-1).sort(dim=-1, descending=True)
    before = probabilities.cumsum(-1) - probabilities  # mass of all likelier tokens
    dropped = (before >= top_p[:, None]).scatter(1, order, before >= top_p[:, None])
    uniform = _uniform(seed, position, logits.shape[-1])
    gumbel = -(-uniform.log()).log()
    drawn = (scaled + gumbel).masked_fill(dropped, float("-inf")).argmax(-1)
    return torch.where(temperature > 0, drawn, logits.argmax(-1))


def _uniform(
    seed: Int[Tensor, " B"], position: Int[Tensor, " B"], num_tokens: int
) -> Float[Tensor, "B V"]:
    """Hash (seed, position, token) to numbers strictly between 0 and 1."""
    token = torch.arange(num_tokens, device=seed.device)
    row = _mix(_mix(seed & _MASK) ^ _mix((seed >> 32 & _MASK) + 0x9E3779B9) ^ (position & _MASK))
    bits = _mix(row[:, None] ^ _mix(token + 0x85EBCA6B)[None])  # (B, V), 32 bits
    return ((bits >> 9).float() + 0.5) / 2**23  # 24 significant bits: exact in float32


def _mix(x: Tensor) -> Tensor:
    """Scramble 32-bit values held in int64 (an xor-shift-multiply finaliser)."""
    x = x & _MASK
    for multiplier in (0x7FEB352D, 0x846CA68B):
        x = x ^ (x >> 16)
        x = (x * multiplier) & _MASK
    return x ^ (x >> 15)
