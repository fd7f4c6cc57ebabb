"""Streaming speech decoder: LLM hidden states -> unit logits, lambda frames a token.

Each hidden state is copied lambda times and goes through a short stack of causal Llama layers to
K + 1 labels. Unusual:

- There is no norm after the last layer, as in the release.
- Two additions of ours, off for released checkpoints: a learned embedding of the frame's place in
  its token (ADR 0002) and the chosen token's embedding beside its hidden state (ADR 0003).
- While streaming, the first layer keeps one row a token instead of lambda: the copies differ there
  only by RoPE, by their place embedding and by the norm's scale, and all three factor out of the
  attention exactly (ADR 0007). The other layers keep every frame.
"""

from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

from llama_omni.model.cache_argument import cache_argument
from llama_omni.model.config import SpeechDecoderConfig
from llama_omni.model.ctc import frame_lengths, frame_sources


@runtime_checkable
class SpeechDecoderCache(Protocol):
    """What `SpeechDecoder.step` needs of a cache; see `engine.cache.SpeechCache`."""

    positions: Int[Tensor, "B L"]  # frame positions of this step
    mask: Tensor  # (B, 1, L, T * lambda) True where a frame may look

    def update_rows(
        self, keys: Tensor, values: Tensor, scales: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Append the first layer's rows of this step's tokens; return all T visible ones."""
        ...

    def place_tables(self, decoder: "SpeechDecoder") -> tuple[Tensor, Tensor] | None:
        """Return `decoder.place_tables` for the T visible tokens, kept between steps."""
        ...


class SpeechDecoder(nn.Module):
    """The paper's streaming, non-autoregressive CTC decoder."""

    def __init__(self, config: SpeechDecoderConfig, *, llm_dim: int) -> None:
        super().__init__()
        self.config = config
        H = config.hidden_size
        self.input_proj = nn.Linear(llm_dim, H)
        self.token_proj = nn.Linear(llm_dim, H, bias=False) if config.token_embedding else None
        self.frame_embedding = (
            FrameEmbedding(config.upsample_factor, H) if config.frame_embedding else None
        )
        layer_config = LlamaConfig(
            hidden_size=H,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_heads,
            head_dim=H // config.num_heads,
            intermediate_size=config.intermediate_size,
            rms_norm_eps=config.rms_norm_eps,
            rope_parameters=dict(config.rope_parameters),
            num_hidden_layers=config.num_layers,
            max_position_embeddings=2**20,  # frames; far beyond any reply
        )
        layer_config._attn_implementation = "sdpa"
        self.layers = nn.ModuleList(
            LlamaDecoderLayer(layer_config, index) for index in range(config.num_layers)
        )
        self.rotary_emb = LlamaRotaryEmbedding(layer_config)
        self.output_proj = nn.Linear(H, config.num_units + 1)

    def forward(
        self,
        hidden: Float[Tensor, "B M D"],
        tokens: Float[Tensor, "B M D"] | None = None,
        *,
        lengths: Int[Tensor, " B"] | None = None,
        target_lengths: Int[Tensor, " B"] | None = None,
    ) -> tuple[Float[Tensor, "B L labels"], Int[Tensor, " B"]]:
        """Decode whole replies.

        Args:
            hidden: (B, M, D) LLM states after its final norm, padded on the right.
            tokens: (B, M, D) LLM input embeddings of the chosen tokens; used if the config says so.
            lengths: (B,) valid states of each row; None: all.
            target_lengths: (B,) target units of each row, in training (see `ctc.frame_lengths`).

        Returns:
            (B, L, K + 1) logits, the blank last, and (B,) valid frames. A row's frames never depend
            on the padding behind them: attention is causal.

        Source:
            Section 2.4; reference `SpeechGeneratorCTC`.
        """
        B, M, _ = hidden.shape
        if lengths is None:
            lengths = torch.full((B,), M, device=hidden.device)
        frames = frame_lengths(lengths, self.config.upsample_factor, target_lengths)
        sources, places = frame_sources(lengths, frames)  # (B, L) twice
        states = self._states(hidden, tokens)  # (B, M, H)
        index = sources.clamp(min=0)[..., None].expand(-1, -1, states.shape[-1])
        x = states.gather(1, index)  # (B, L, H)
        if self.frame_embedding is not None:
            x = x + self.frame_embedding(places.clamp(max=self.config.upsample_factor - 1))
        x = x * (sources >= 0)[..., None]
        rope = self.rotary_emb(x, torch.arange(x.shape[1], device=x.device)[None])
        for layer in self.layers:
            x = layer(x, position_embeddings=rope)  # mask None: SDPA's own causal mask
        return self.output_proj(x), frames

    def step(
        self,
        hidden: Float[Tensor, "B M D"],
        tokens: Float[Tensor, "B M D"] | None,
        cache: Any,
    ) -> Float[Tensor, "B L labels"]:
        """Decode the lambda * M frames of the next M tokens of each row; M is usually 1.

        Args:
            hidden: (B, M, D) states that predicted the tokens.
            tokens: (B, M, D) their input embeddings, as in `forward`.
            cache: a `SpeechDecoderCache`, also Transformers' `Cache` for layers 1 and above, which
                knows where each row stands.

        Returns:
            (B, lambda * M, K + 1) logits: what `forward` gives for these frames.
        """
        states = self._states(hidden, tokens)  # (B, M, H)
        x = states.repeat_interleave(self.config.upsample_factor, dim=1)  # (B, L, H)
        if self.frame_embedding is not None:
            x = x + self.frame_embedding.weight.repeat(states.shape[1], 1)
        rope = self.rotary_emb(x, cache.positions)
        x = self._first_layer(x, states, rope, cache)
        for layer in self.layers[1:]:
            x = layer(
                x,
                attention_mask=cache.mask,
                position_embeddings=rope,
                **{cache_argument(layer): cache},
            )
        return self.output_proj(x)

    def place_tables(self, num_tokens: int) -> tuple[Tensor, Tensor] | None:
        """Compute what the place embedding adds to the first layer's keys and values.

        Returns:
            (heads, lambda, num_tokens, d) keys, rotated, of the place embedding alone at every
            frame position, and (heads, lambda, d) values; None without a place embedding. They
            depend on the weights only and serve all conversations.
        """
        if self.frame_embedding is None:
            return None
        layer: Any = self.layers[0]
        normed = layer.input_layernorm.weight * self.frame_embedding.weight  # (lambda, H)
        keys = self._heads(layer.self_attn.k_proj(normed)[None])  # (1, heads, lambda, d)
        values = self._heads(layer.self_attn.v_proj(normed)[None])[0]
        positions = torch.arange(num_tokens * self.config.upsample_factor, device=normed.device)
        cos, sin = self.rotary_emb(normed, positions[None])  # (1, T * lambda, d)
        rotated = _rotate(keys.repeat(1, 1, num_tokens, 1), cos[:, None], sin[:, None])[0]
        by_place = rotated.unflatten(1, (num_tokens, -1)).transpose(1, 2).contiguous()
        return by_place, values

    def _states(self, hidden: Tensor, tokens: Tensor | None) -> Float[Tensor, "B M H"]:
        states = self.input_proj(hidden)
        if self.token_proj is not None:
            if tokens is None:
                raise TypeError("this speech decoder needs the chosen tokens' embeddings")
            states = states + self.token_proj(tokens)
        return states

    def _heads(self, x: Float[Tensor, "B L H"]) -> Float[Tensor, "B heads L d"]:
        return x.unflatten(-1, (self.config.num_heads, -1)).transpose(1, 2)

    def _first_layer(
        self, x: Tensor, states: Tensor, rope: tuple[Tensor, Tensor], cache: SpeechDecoderCache
    ) -> Float[Tensor, "B L H"]:
        layer: Any = self.layers[0]
        attention, norm = layer.self_attn, layer.input_layernorm
        factor = self.config.upsample_factor
        cos, sin = rope[0][:, None], rope[1][:, None]  # (B, 1, L, d)
        query = attention.q_proj(norm(x)) * attention.scaling
        query = _rotate(self._heads(query), cos, sin)  # (B, heads, L, d)

        # Frame f of token t has the key R(lambda t + f) (a_t + b_f) s_tf: a from its state, b from
        # its place, s the norm's scale. Keep R(lambda t) a_t s_t0, its value likewise, and s: with
        # its first frame's scale a row is as small as the keys it stands for, also in float16.
        variance = x.float().pow(2).mean(-1)
        scales = (variance + norm.variance_epsilon).rsqrt().unflatten(1, (-1, factor))  # (B, M, F)
        normed = norm.weight * (states * scales[..., :1]).to(x.dtype)
        keys = _rotate(
            self._heads(attention.k_proj(normed)), cos[:, :, ::factor], sin[:, :, ::factor]
        )  # (B, heads, M, d)
        values = self._heads(attention.v_proj(normed))
        keys, values, scales = cache.update_rows(keys, values, scales)  # over all T tokens

        # R(lambda t + f) against the query is R(lambda t) against the query turned back by f.
        offsets = torch.arange(factor, device=x.device)[None]
        back_cos, back_sin = (
            table / self.rotary_emb.attention_scaling for table in self.rotary_emb(x, offsets)
        )  # (1, F, d)
        turned = _rotate(query[:, :, :, None], back_cos, -back_sin)  # (B, heads, L, F, d)
        scores = turned.flatten(2, 3) @ keys.transpose(-1, -2)
        # In place where possible: the scores are the largest tensors of a step.
        scores = scores.unflatten(2, (-1, factor)).float()  # (B, heads, L, F, T)
        by_place = scales.transpose(1, 2)[:, None, None]  # (B, 1, 1, F, T)
        of_states = by_place / by_place[:, :, :, :1].clamp(min=1e-20)  # rows hold their s_t0
        scores = scores.mul_(of_states)
        tables = cache.place_tables(self)
        if tables is not None:
            places = query[:, :, None] @ tables[0].transpose(-1, -2)  # (B, heads, F, L, T)
            scores = scores.addcmul_(places.transpose(2, 3).float(), by_place)
        unseen = ~cache.mask.unflatten(-1, (-1, factor)).transpose(-1, -2)  # (B, 1, L, F, T)
        scores = scores.masked_fill_(unseen, float("-inf"))
        weights = scores.flatten(-2).softmax(-1).view_as(scores)
        mixed = (weights * of_states).sum(-2).to(x.dtype) @ values  # (B, heads, L, d)
        if tables is not None:
            mixed = mixed + weights.mul_(by_place).sum(-1).to(x.dtype) @ tables[1]
        x = x + attention.o_proj(mixed.transpose(1, 2).flatten(2))
        return x + layer.mlp(layer.post_attention_layernorm(x))


class FrameEmbedding(nn.Embedding):
    """One vector for each place of a frame in its token; a class of its own to be initialised."""


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply RoPE in Llama's convention: the two halves of a head are the two coordinates."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
