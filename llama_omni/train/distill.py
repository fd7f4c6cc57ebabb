"""A text-only teacher for stage 1: the LLM as it was, reading the question instead of hearing it.

Learning answers to speech costs the LLM some of what it knew (FACTS, section 8); staying close to
its own distribution over the same answer keeps it.
"""

import copy
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from llama_omni.model.omni import OmniModel
from llama_omni.prompt import IGNORE
from llama_omni.train.lora import enable_lora, lora_layers


class Teacher:
    """The frozen LLM: a copy, or the same weights where they do not learn (LoRA is switched off).

    Args:
        model: before its LLM learns; what learns of it is marked by `requires_grad`.
        temperature: of both distributions.
    """

    def __init__(self, model: OmniModel, *, temperature: float) -> None:
        self._temperature = temperature
        learns = any(parameter.requires_grad for parameter in model.llm.parameters())
        self._shared = bool(lora_layers(model.llm)) or not learns
        self._llm: Any = None if self._shared else copy.deepcopy(model.llm)
        if self._llm is not None:
            self._llm.requires_grad_(False).eval()

    def divergence(
        self, model: OmniModel, logits: Float[Tensor, "A V"], batch: dict[str, Any]
    ) -> Float[Tensor, ""]:
        """Return KL(teacher || student), summed over answer tokens, times the temperature squared.

        Args:
            model: the student.
            logits: (A, V) its scores of the batch's answer tokens, row by row.
            batch: with written_input_ids, written_attention_mask and written_labels.
        """
        labels = batch["written_labels"]
        teacher = self._scores(model, batch, labels)
        t = self._temperature
        wanted = (teacher.float() / t).log_softmax(dim=-1)
        found = (logits.float() / t).log_softmax(dim=-1)
        return t * t * (wanted.exp() * (wanted - found)).sum()

    @torch.no_grad()
    def _scores(
        self, model: OmniModel, batch: dict[str, Any], labels: Int[Tensor, "B I"]
    ) -> Float[Tensor, "A V"]:
        llm: Any = model.llm if self._shared else self._llm.to(labels.device)
        modes = [(module, module.training) for module in llm.modules()]  # some learn, some do not
        enable_lora(model.llm, False)
        llm.eval()
        try:
            hidden = llm.get_decoder()(
                input_ids=batch["written_input_ids"],
                attention_mask=batch["written_attention_mask"],
                use_cache=False,
            ).last_hidden_state
        finally:
            for module, mode in modes:
                module.training = mode
            enable_lora(model.llm, True)
        chosen = labels[:, 1:] != IGNORE
        head = llm.get_output_embeddings()
        return model.token_logits(hidden[:, :-1][chosen], head=head)
