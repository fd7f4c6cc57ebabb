"""Stage 1: the adapter and the LLM learn to answer speech in writing."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from llama_omni.metrics import spoken_words
from llama_omni.model.omni import OmniModel, token_loss
from llama_omni.prompt import IGNORE
from llama_omni.train.augment import Augmenter, AugmentSettings
from llama_omni.train.collate import Collator
from llama_omni.train.distill import Teacher
from llama_omni.train.lora import add_lora
from llama_omni.train.processes import to_device
from llama_omni.train.product import Product
from llama_omni.train.reading import read_batch
from llama_omni.train.stage import HeldOut, Stage, with_silence
from llama_omni.train.stage_settings import StageOneSettings
from llama_omni.train.task import StepResult


class StageOne(Stage):
    """Cross-entropy on the answer; the adapter learns, and the LLM whole, by LoRA or not at all.

    Args:
        model: with an encoder and an LLM that can do something.
        collator: without units; text share, teacher and sounds' variation follow the settings.
        settings: see there.
        held_out: see there.
        product: see there.
    """

    def __init__(
        self,
        model: OmniModel,
        collator: Collator,
        settings: StageOneSettings,
        *,
        held_out: HeldOut,
        product: Product,
    ) -> None:
        super().__init__(model, collator, settings, held_out, product)
        model.requires_grad_(False)
        model.adapter.requires_grad_(True)
        if settings.llm == "whole":
            model.llm.requires_grad_(True)
        elif settings.llm == "lora":
            add_lora(
                model.llm,
                rank=settings.lora_rank,
                alpha=settings.lora_alpha,
                dropout=settings.lora_dropout,
                targets=settings.lora_targets,
            )
        # Layers of a frozen LLM run as they are in use, but checkpoint only where told of training;
        # their own dropout is in modules within them, which stay as they are.
        frozen = settings.llm == "frozen" and settings.gradient_checkpointing
        layers = [m for m in model.llm.modules() if isinstance(m, GradientCheckpointingLayer)]
        self._checkpointed = layers if frozen else []
        self._weight, self._teacher = settings.distill_weight, None
        if self._weight:
            self._teacher = Teacher(model, temperature=settings.distill_temperature)
        self.collate = replace(
            collator,
            text_share=settings.text_share,
            transcribe_share=settings.transcribe_share,
            written_too=self._teacher is not None,
            augmenter=Augmenter(AugmentSettings(), seed=0) if settings.augment else None,
        )

    def count(self, batch: dict[str, Any]) -> int:
        """Return the answer tokens."""
        return int((batch["labels"] != IGNORE).sum())

    def loss(self, batch: dict[str, Any], normaliser: Tensor) -> StepResult:
        """Return the cross-entropy per answer token, and the teacher's part."""
        numbers: dict[str, Any] = self._report(batch)
        if self._settings.sharding == "fsdp":
            batch = with_silence(batch, self.model.config)
        elif not batch["ids"]:
            return StepResult(loss=torch.zeros((), device=normaliser.device), numbers=numbers)
        for layer in self._checkpointed:
            layer.training = True
        logits, labels = self._answer_logits(batch)
        loss = token_loss(logits, labels, normaliser=normaliser)
        shown = {"accuracy": (logits.argmax(dim=-1) == labels).float().mean()}
        if self._teacher is not None:
            shown["cross_entropy"] = loss.detach() * normaliser / len(labels)
            divergence = self._teacher.divergence(self.model, logits, batch)
            shown["divergence"] = divergence.detach() / len(labels)
            loss = loss + self._weight * divergence / normaliser
        return StepResult(loss=loss, numbers=numbers | shown if batch["ids"] else numbers)

    def _answer_logits(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Return (A, V) scores and (A,) labels of the answers only: prompts need no scores."""
        merged, hidden = read_batch(self.model, batch)
        labels = merged.labels[:, 1:]
        chosen = labels != IGNORE
        return self.model.token_logits(hidden[:, :-1][chosen]), labels[chosen]

    def evaluate(self, step: int) -> dict[str, float]:
        """Return loss and share of replies that are right, word for word, for each split."""
        numbers: dict[str, float] = {}
        lines: list[dict[str, Any]] = []
        all_loss = all_tokens = 0.0
        for name, rows in self._rows.items():
            loss = tokens = right = 0.0
            for part in self._parts(rows):
                batch = to_device(self._judge(part), self.model.device)
                if batch["ids"]:
                    logits, labels = self._answer_logits(batch)
                    loss += float(token_loss(logits, labels, normaliser=1))
                    tokens += len(labels)
                for example, reply in zip(part, self._replies(part), strict=True):
                    text = self._judge.tokenizer.decode(reply.token_ids)
                    exact = spoken_words(text) == spoken_words(example.answer)
                    right += exact
                    line = {"split": name, "id": example.id, "right": exact}
                    line |= {"question": example.question, "wanted": example.answer, "reply": text}
                    lines.append(line)
            numbers[f"loss_{name}"] = loss / max(1.0, tokens)
            numbers[f"exact_{name}"] = right / max(1, len(rows))
            all_loss, all_tokens = all_loss + loss, all_tokens + tokens
        if not self._rows:
            return {}
        numbers["loss"] = all_loss / max(1.0, all_tokens)
        exact = [value for name, value in numbers.items() if name.startswith("exact_")]
        numbers["exact"] = sum(exact) / len(exact)
        self._write_samples(step, lines)
        return numbers
