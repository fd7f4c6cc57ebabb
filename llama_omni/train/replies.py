"""Greedy replies to a whole batch of prompts, for held-out numbers while training.

Prompts are padded on the left and share one cache, so 16 replies cost little more than one; the
engine, made for conversations that come and go, stays out of training.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from llama_omni.model.cache_argument import cache_argument
from llama_omni.model.ctc import collapse
from llama_omni.model.omni import OmniModel
from llama_omni.train.processes import as_rank_zero


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GreedyReply:
    """One reply."""

    token_ids: list[int]  # the stop token included, if it came
    states: Float[Tensor, "_ D"]  # (M, D) that predicted them


@torch.no_grad()
def greedy_replies(
    model: OmniModel, prompts: Sequence[Float[Tensor, "_ D"]], *, max_new_tokens: int
) -> list[GreedyReply]:
    """Answer prompts of merged embeddings, word by most probable word."""
    B, T = len(prompts), max(len(prompt) for prompt in prompts)
    embeddings = pad_sequence(list(prompts), batch_first=True, padding_side="left")  # (B, T, D)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=embeddings.device)
    mask = (torch.arange(T, device=embeddings.device) >= T - lengths[:, None]).long()  # (B, T)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    decoder: Any = model.llm.get_decoder()
    by_name = {cache_argument(decoder): DynamicCache(config=model.config.llm)}
    stops = torch.tensor(model.config.stop_token_ids, device=embeddings.device)
    going = torch.ones(B, dtype=torch.bool, device=embeddings.device)
    tokens: list[list[int]] = [[] for _ in prompts]
    states: list[list[Tensor]] = [[] for _ in prompts]
    for _ in range(max_new_tokens):
        hidden = decoder(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            **by_name,
        ).last_hidden_state[:, -1]  # (B, D)
        # Where weights are sharded each step is one of all processes: none may stop before others.
        chosen = as_rank_zero(model, model.token_logits(hidden).argmax(dim=-1))  # (B,)
        for row in going.nonzero()[:, 0].tolist():
            tokens[row].append(int(chosen[row]))
            states[row].append(hidden[row])
        going &= ~torch.isin(chosen, stops)
        if not going.any():
            break
        embeddings = model.get_input_embeddings()(chosen)[:, None]
        positions = positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(B, 1)], dim=1)
    return [
        GreedyReply(token_ids=ids, states=torch.stack(rows))
        for ids, rows in zip(tokens, states, strict=True)
    ]


@torch.no_grad()
def say(model: OmniModel, reply: GreedyReply) -> list[int]:
    """Return the units that the speech decoder says of a reply."""
    tokens = None
    if model.config.speech_decoder.token_embedding:
        ids = torch.tensor(reply.token_ids, device=reply.states.device)
        tokens = model.get_input_embeddings()(ids)[None]
    logits, _ = model.speech_decoder(reply.states[None].to(model.dtype), tokens)
    return collapse(logits[0].argmax(dim=-1).tolist(), blank=model.config.speech_decoder.blank)
