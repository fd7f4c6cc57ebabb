"""From a batch to what the LLM makes of it: the path that both stages and their caches share."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from llama_omni.model.omni import Merged, OmniModel
from llama_omni.prompt import IGNORE


def listen(model: OmniModel, batch: dict[str, Any]) -> list[Float[Tensor, "_ D"]]:
    """Return the speech embeddings of a batch's spoken turns; the adapter can learn."""
    if "mel_lengths" not in batch:
        return []
    features = batch.get("features")
    if features is None:
        with torch.no_grad():
            mel = batch["mel"].to(next(model.encoder.parameters()).dtype)
            features = model.encoder(mel, batch["mel_lengths"])
    return model.adapt(features.to(model.adapter.linear1.weight.dtype), batch["mel_lengths"])


def read_batch(model: OmniModel, batch: dict[str, Any]) -> tuple[Merged, Float[Tensor, "B T D"]]:
    """Return the merged rows of a batch, and the LLM's states over them after its final norm."""
    merged = model.merge(
        batch["input_ids"],
        listen(model, batch),
        attention_mask=batch["attention_mask"],
        labels=batch["labels"],
    )
    return merged, model.read(merged)


def answer_tokens(merged: Merged) -> Int[Tensor, "B M"]:
    """Return the tokens of each answer, padded on the right with 0."""
    rows = zip(merged.token_ids, merged.labels != IGNORE, strict=True)
    return pad_sequence([ids[chosen] for ids, chosen in rows], batch_first=True)
