"""What both stages share: held-out rows, replies to them, samples, and the finished product."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llama_omni.errors import InputError
from llama_omni.model.config import OmniConfig
from llama_omni.model.omni import OmniModel
from llama_omni.model.vocoder import UnitVocoder
from llama_omni.prompt import IGNORE, SPEECH_TOKEN
from llama_omni.train.collate import Collator
from llama_omni.train.processes import is_main, to_device
from llama_omni.train.product import Product
from llama_omni.train.reading import listen
from llama_omni.train.replies import GreedyReply, greedy_replies
from llama_omni.train.stage_settings import StageSettings

logger = logging.getLogger(__name__)

_WARNINGS = 5  # times that rows left out are named in the log; all are counted
_NAMED = 3  # held-out rows left out whose reasons are given


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOut:
    """What a stage judges itself by.

    Attributes:
        splits: examples by the name of their split.
        samples: folder for replies written, and spoken with `vocoder`, at each evaluation.
        vocoder: speaks the units of stage 2's samples.
        metrics: the run's metrics.jsonl, of which stage 2 learns for how long it has been silent.
    """

    splits: Mapping[str, Any] = field(default_factory=dict)
    samples: Path | None = None
    vocoder: UnitVocoder | None = None
    metrics: Path | None = None


class Stage:
    """What both stages share: rows held out, replies to them, and the finished product.

    Raises:
        InputError: a held-out row cannot be judged, and `skip_cut` is off or its split is out.
    """

    model: OmniModel

    def __init__(
        self,
        model: OmniModel,
        collator: Collator,
        settings: StageSettings,
        held_out: HeldOut,
        product: Product,
    ) -> None:
        self.model, self.collate = model, collator
        self._judge = replace(collator, features=None)  # held-out rows bring their sound
        self._settings, self._held_out, self._product = settings, held_out, product
        self._rows = {
            name: self._judged(name, spread(rows, settings.held_out_rows))
            for name, rows in held_out.splits.items()
            if settings.held_out_rows
        }
        self._warned = 0

    def _judged(self, split: str, rows: list[Any]) -> list[Any]:
        """Return the held-out rows that every evaluation can judge; report the others."""
        reasons = {row.id: reason for row in rows if (reason := self._judge.unfit(row))}
        if not reasons:
            return rows
        told = "; ".join(f"sample {name}: {reasons[name]}" for name in list(reasons)[:_NAMED])
        if not self._settings.skip_cut or len(reasons) == len(rows):
            raise InputError(
                f"held-out split {split!r} must hold rows that can be judged, got {len(reasons)} "
                f"of {len(rows)} that cannot: {told}"
            )
        if is_main():
            logger.warning(
                "held-out rows left out split=%s rows=%d of=%d; %s",
                split,
                len(reasons),
                len(rows),
                told,
            )
        return [row for row in rows if row.id not in reasons]

    def save(self, folder: Path) -> None:
        """Write the model as a native folder."""
        self._product.write(self.model, folder)

    def _report(self, batch: dict[str, Any]) -> dict[str, float]:
        """Name rows that were left out or stretched, and return their shares of the batch."""
        shares = {}
        for name, meaning in (
            ("cut", "rows do not fit the model and are left out"),
            ("too_long", "targets hold more units than frames"),
        ):
            found = batch.get(name, [])
            shares[name] = len(found) / max(1, batch.get("rows", 0))
            if found and self._warned < _WARNINGS and is_main():
                self._warned += 1
                logger.warning("%s: %s", meaning, ", ".join(found))
        return shares

    def _parts(self, rows: Sequence[Any]) -> list[Sequence[Any]]:
        """Return held-out rows in batches of like length."""
        size = self._settings.held_out_batch
        ordered = sorted(rows, key=lambda row: len(row.audio))
        return [ordered[first : first + size] for first in range(0, len(ordered), size)]

    def _replies(self, examples: Sequence[Any]) -> list[GreedyReply]:
        """Answer spoken questions."""
        prompts = []
        for example in examples:
            row = self._judge.row(example)
            ids = torch.tensor([row.ids[: len(row.ids) - row.num_answer_tokens]])
            batch = to_device({"input_ids": ids, **self._judge.sounds([row])}, self.model.device)
            speech = listen(self.model, batch)
            prompts.append(self.model.merge(batch["input_ids"], speech).embeddings[0])
        return greedy_replies(self.model, prompts, max_new_tokens=self._settings.max_new_tokens)

    def _write_samples(self, step: int, lines: Sequence[Mapping[str, Any]]) -> None:
        folder = self._held_out.samples
        if folder is None or not is_main() or not lines:
            return
        folder.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (folder / f"step-{step:08d}.jsonl").write_text(text, encoding="utf-8")


def spread(rows: Any, count: int) -> list[Any]:
    """Return at most so many rows, evenly spread: shards are ordered by source and voice."""
    places = np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)
    return [rows[int(place)] for place in places]


def with_silence(batch: dict[str, Any], config: OmniConfig) -> dict[str, Any]:
    """Add a row of silence that is answered by nothing to a batch without sound.

    Sharded weights are gathered, and their gradients summed, by all processes together: each must
    use the adapter and every layer, though all its rows are written or left out. The loss and the
    gradients stay what they are.
    """
    if "mel_lengths" in batch:
        return batch
    ids = batch["input_ids"]
    frames = 2 * config.adapter.stack
    silence = torch.zeros(1, frames, config.encoder.d_model, device=ids.device)  # (1, N, E)
    lengths = torch.tensor([2 * frames], device=ids.device)
    grown = {**batch, "features": silence, "mel_lengths": lengths}
    for name, added, fill in (
        ("input_ids", (SPEECH_TOKEN, 0), 0),
        ("attention_mask", (1, 1), 0),
        ("labels", (IGNORE, IGNORE), IGNORE),
        ("written_input_ids", (0, 0), 0),
        ("written_attention_mask", (1, 1), 0),
        ("written_labels", (IGNORE, IGNORE), IGNORE),
    ):
        if name in batch:
            B, T = batch[name].shape
            rows = batch[name].new_full((B + 1, max(T, 2)), fill)
            rows[:B, :T] = batch[name]
            rows[B, :2] = rows.new_tensor(added)
            grown[name] = rows  # (B + 1, T or 2)
    return grown
