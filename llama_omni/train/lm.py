"""Pretraining of a small language model, on questions and answers or on documents.

Rows are padded on the right and attention is causal, so no mask is needed; logits are computed only
where something is to be learnt.
"""

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, DynamicCache, PretrainedConfig

from llama_omni.data.records import Record
from llama_omni.errors import CheckpointError, ConfigError
from llama_omni.metrics import spoken_words
from llama_omni.model.cache_argument import cache_argument
from llama_omni.model.tokenizer import TextTokenizer
from llama_omni.prompt import IGNORE, PromptTemplate, encode_prompt
from llama_omni.train.assemble import check_alike, check_tokens, read_llm
from llama_omni.train.processes import as_rank_zero, full_state, is_main
from llama_omni.train.row_cache import tokens_hash
from llama_omni.train.run_folder import fixed_settings, fixed_sizes
from llama_omni.train.runner import TrainResult, train
from llama_omni.train.settings import TrainSettings
from llama_omni.train.task import StepResult
from llama_omni.train.text_rows import TextRow, TextRows, turns_of


@dataclass(frozen=True, kw_only=True, slots=True)
class LMSettings:
    """What is learnt of a text, and how it is judged."""

    question_weight: float = 0.0  # of the loss of what an assistant does not say; 1: as its words
    held_out_rows: int = 500  # at most, of each held-out split
    max_new_tokens: int = 64  # of an answer that is judged
    batch_size: int = 128  # of evaluation

    def __post_init__(self) -> None:
        if not 0 <= self.question_weight < math.inf:
            raise ConfigError(
                f"lm.question_weight must be 0 or more and finite, got {self.question_weight}"
            )
        for name in ("held_out_rows", "max_new_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"lm.{name} must be at least 1, got {getattr(self, name)}")


def train_lm(
    rows: TextRows,
    output: Path,
    *,
    config: PretrainedConfig,
    tokenizer: TextTokenizer,
    template: PromptTemplate,
    settings: LMSettings,
    training: TrainSettings,
    held_out: Mapping[str, Sequence[Record]],
    start: Path | None = None,
) -> TrainResult:
    """Train a language model, from nothing or further; goes on where it was stopped.

    Args:
        rows: What is learnt, see `TextRows`.
        output: See `runner.train`; output/final and output/best are folders of Transformers, with
            the tokeniser; output/samples holds answers of each evaluation.
        config: Of any causal language model of Transformers.
        tokenizer: See `train_tokenizer`.
        template: The words around turns.
        settings: What is learnt and how it is judged.
        training: The run; `metric="accuracy"`, `greater_is_better=True` keeps the best.
        held_out: Questions with answers by the name of their split.
        start: A folder of Transformers whose weights to begin with, of the same configuration
            and tokens.

    Raises:
        CheckpointError: `start` holds no language model, or not all of it.
        ConfigError: `start` has another configuration or other tokens.
    """
    torch.manual_seed(training.seed)
    task = LMTask(
        config,
        tokenizer,
        template,
        held_out=held_out,
        settings=settings,
        samples=output / "samples",
    )
    if start is not None:
        _begin_with(start, task.model, tokenizer)
    judged = {name: len(records) for name, records in held_out.items()}
    fixed = fixed_settings("lm", settings, free=("batch_size",)) | {"held_out": judged}
    fixed |= fixed_sizes("llm", config)
    fixed |= {"tokenizer_hash": tokens_hash(tokenizer), "data_hash": rows.digest}
    return train(task, rows, rows.lengths, training, output, start=start, fixed=fixed)


class LMTask:
    """Next-token prediction as a `Task` of the runner; arguments as of `train_lm`."""

    def __init__(
        self,
        config: PretrainedConfig,
        tokenizer: TextTokenizer,
        template: PromptTemplate,
        *,
        held_out: Mapping[str, Sequence[Record]],
        settings: LMSettings,
        samples: Path | None = None,
    ) -> None:
        self.model: Any = AutoModelForCausalLM.from_config(config)
        self._tokenizer, self._template = tokenizer, template
        self._settings, self._samples = settings, samples
        self._held_out = {
            split: [record for record in records if record.answer is not None]
            for split, records in held_out.items()
        }
        for split, records in self._held_out.items():
            step = max(1, len(records) / settings.held_out_rows)
            count = min(len(records), settings.held_out_rows)
            self._held_out[split] = [records[int(i * step)] for i in range(count)]

    def collate(self, items: list[TextRow]) -> dict[str, Any]:
        """Pad the rows on the right."""
        return {
            "ids": _padded([row.ids for row in items], 0),
            "labels": _padded([row.labels for row in items], IGNORE),
            "lengths": torch.tensor([len(row.ids) for row in items]),
        }

    def count(self, batch: dict[str, Any]) -> int:
        """Return the labelled tokens that can be predicted: all but a row's first."""
        return int((batch["labels"][:, 1:] != IGNORE).sum())

    def loss(self, batch: dict[str, Any], normaliser: Tensor) -> StepResult:
        """Return the cross-entropy per labelled token."""
        targets, labelled = batch["ids"][:, 1:], batch["labels"][:, 1:] != IGNORE  # (B, T - 1)
        real = (
            torch.arange(1, targets.shape[1] + 1, device=targets.device) < batch["lengths"][:, None]
        )
        weights = torch.where(labelled, 1.0, self._settings.question_weight) * real
        chosen = weights > 0
        hidden = self.model.base_model(batch["ids"][:, :-1], use_cache=False).last_hidden_state
        logits = self.model.get_output_embeddings()(hidden[chosen])  # (M, V)
        entropy = torch.nn.functional.cross_entropy(
            logits.float(), targets[chosen], reduction="none"
        )  # (M,)
        loss = (entropy * weights[chosen]).sum() / normaliser
        answers = labelled[chosen]
        numbers = {"answers": entropy.detach()[answers].sum() / answers.sum().clamp(min=1)}
        if self._settings.question_weight and not bool(answers.all()):
            numbers["questions"] = entropy.detach()[~answers].mean()
        return StepResult(loss=loss, numbers=numbers)

    @torch.no_grad()
    def evaluate(self, step: int) -> dict[str, float]:
        """Return the loss and the share of exact answers of each held-out split, by intent too."""
        numbers: dict[str, float] = {}
        lines: list[dict[str, Any]] = []
        loss = count = 0.0
        for split, records in self._held_out.items():
            summed, tokens = self._entropy(records)
            loss, count = loss + summed, count + tokens
            right: dict[str, list[bool]] = defaultdict(list)
            for record, reply in zip(records, self.answer(records), strict=True):
                is_right = spoken_words(reply) == spoken_words(record.answer or "")
                right[record.intent or "other"].append(is_right)
                line = {"question": record.question, "answer": record.answer, "reply": reply}
                lines.append({"split": split, "intent": record.intent, "right": is_right, **line})
            everything = [is_right for results in right.values() for is_right in results]
            numbers[f"accuracy_{split}"] = sum(everything) / max(1, len(everything))
            for intent, results in sorted(right.items()):
                numbers[f"accuracy_{split}/{intent}"] = sum(results) / len(results)
        if self._held_out:
            shares = [numbers[f"accuracy_{split}"] for split in self._held_out]
            numbers["accuracy"] = sum(shares) / len(shares)
            numbers["loss"] = loss / max(1.0, count)
        if self._samples is not None and lines and is_main():
            self._samples.mkdir(parents=True, exist_ok=True)
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            (self._samples / f"step-{step}.jsonl").write_text(text, encoding="utf-8")
        return numbers

    @torch.no_grad()
    def answer(self, records: Sequence[Record]) -> list[str]:
        """Answer written questions greedily, in batches of prompts of one length."""
        prompts = [self._prompt(record) for record in records]
        alike: dict[int, list[int]] = defaultdict(list)
        for place, prompt in enumerate(prompts):
            alike[len(prompt)].append(place)
        replies = [""] * len(records)
        for places in alike.values():
            for first in range(0, len(places), self._settings.batch_size):
                part = places[first : first + self._settings.batch_size]
                ids = torch.tensor([prompts[place] for place in part], device=self.model.device)
                for place, reply in zip(part, self._generate(ids), strict=True):
                    replies[place] = reply
        return replies

    def save(self, folder: Path) -> None:
        """Write the model and its tokeniser as a folder of Transformers, on rank 0."""
        state = full_state(self.model)
        if not is_main():
            return
        self.model.save_pretrained(folder, state_dict=state)
        self._tokenizer.inner.save_pretrained(str(folder))

    def _generate(self, ids: Int[Tensor, "B T"]) -> list[str]:
        ends = _ends(self.model.config)
        by_name = {cache_argument(self.model): DynamicCache(config=self.model.config)}
        replies: list[list[int]] = [[] for _ in ids]
        going = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
        for _ in range(self._settings.max_new_tokens):
            output = self.model(ids, use_cache=True, logits_to_keep=1, **by_name)
            ids = as_rank_zero(self.model, output.logits[:, -1:].argmax(dim=-1))  # (B, 1)
            for reply, token, goes_on in zip(
                replies, ids[:, 0].tolist(), going.tolist(), strict=True
            ):
                if goes_on:
                    reply.append(token)
            going &= ~torch.isin(ids[:, 0], ends.to(ids.device))
            if not bool(going.any()):
                break
        return [self._tokenizer.decode(reply).strip() for reply in replies]

    def _entropy(self, records: Sequence[Record]) -> tuple[float, int]:
        """Return the summed cross-entropy of answers, and their tokens."""
        if not records:
            return 0.0, 0
        rows = TextRows.of_records(records, self._tokenizer, self._template)
        order, size = rows.lengths.argsort(kind="stable").tolist(), self._settings.batch_size
        total, count = 0.0, 0
        for first in range(0, len(order), size):
            batch = self.collate([rows[row] for row in order[first : first + size]])
            batch = {name: value.to(self.model.device) for name, value in batch.items()}
            tokens = self.count(batch)
            total += float(self.loss(batch, torch.tensor(1.0)).numbers["answers"]) * tokens
            count += tokens
        return total, count

    def _prompt(self, record: Record) -> list[int]:
        return encode_prompt(
            turns_of(record, answered=False),
            self._tokenizer.encode,
            self._template,
            bos_token_id=self._tokenizer.bos_token_id,
        )


def _begin_with(start: Path, model: Any, tokenizer: TextTokenizer) -> None:
    """Take the weights of a language model like this one, of the same tokens."""
    if not (start / "config.json").is_file():
        raise CheckpointError(
            f"{start} must be a folder of Transformers, as a run's final and best are, got none"
        )
    found, folder = read_llm(str(start))
    check_alike(found.config, model.config, folder)
    check_tokens(folder, tokenizer)
    model.load_state_dict(found.state_dict())


def _ends(config: Any) -> Int[Tensor, " ends"]:
    """Return the ids after which nothing is said."""
    ends = config.eos_token_id
    return torch.tensor(ends if isinstance(ends, list) else [ends])


def _padded(rows: Sequence[Any], value: int) -> Int[Tensor, "B T"]:
    tensors = [torch.from_numpy(row).long() for row in rows]
    return pad_sequence(tensors, batch_first=True, padding_value=value)
