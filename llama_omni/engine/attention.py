"""Grouped-query attention over a slot cache without copying keys and values for each query head.

Registered with Transformers as `llama_omni_grouped`. The query heads that share a key-value head
are folded into the query length, so SDPA reads the cache once whatever backend it takes; expanding
the cache instead costs four times its bytes at every step of an 8B model.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from llama_omni.model.encoder import attention_bias

GROUPED = "llama_omni_grouped"


def grouped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend (B, heads, T, d) over (B, kv_heads, S, d) under a (B, 1, T, S) mask."""
    groups = query.shape[1] // key.shape[1]
    if attention_mask is None or module.training or groups == 1:
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        return output, None
    T = query.shape[2]
    folded = query.unflatten(1, (key.shape[1], groups)).flatten(2, 3)  # (B, kv_heads, G*T, d)
    mask = attention_mask.repeat(1, 1, groups, 1)  # (B, 1, G*T, S)
    output = nn.functional.scaled_dot_product_attention(
        folded, key, value, attn_mask=mask, scale=scaling
    )
    return output.unflatten(2, (groups, T)).flatten(1, 2).transpose(1, 2), None


def use_grouped_attention(llm: PreTrainedModel) -> None:
    """Switch a language model that uses SDPA to `grouped_attention`; leave any other alone."""
    if llm.config._attn_implementation == "sdpa":
        llm.set_attn_implementation(GROUPED)


def decoder_masks(
    config: Any, mask: Tensor, positions: Tensor, dtype: torch.dtype
) -> Tensor | dict[str, Tensor]:
    """Give a decoder the mask or masks that its kinds of layer expect.

    Args:
        config: the LLM's.
        mask: (B, 1, T, S) causal mask over cache columns.
        positions: (B, T) of the queries.
        dtype: of the model.
    """
    kind = config._attn_implementation
    window = getattr(config, "sliding_window", None)
    if window is None or getattr(config, "use_sliding_window", True) is False:
        return attention_bias(mask, kind, dtype)
    columns = torch.arange(mask.shape[-1], device=mask.device)
    near = mask & (columns > positions[..., None] - window)[:, None]
    kinds = set(getattr(config, "layer_types", None) or ())
    if not kinds:
        return attention_bias(near, kind, dtype)
    return {
        "full_attention": attention_bias(mask, kind, dtype),
        "sliding_attention": attention_bias(near, kind, dtype),
    }


AttentionInterface.register(GROUPED, grouped_attention)
AttentionMaskInterface.register(GROUPED, sdpa_mask)
