"""Stage 2: the speech decoder learns to say the answer's units, from the LLM's frozen states."""

import wave
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from llama_omni import audio
from llama_omni.model.ctc import collapse, ctc_loss
from llama_omni.model.omni import OmniModel
from llama_omni.prompt import IGNORE
from llama_omni.train.collate import Collator
from llama_omni.train.processes import is_main, to_device
from llama_omni.train.product import Product
from llama_omni.train.reading import answer_tokens, read_batch
from llama_omni.train.replies import say
from llama_omni.train.stage import HeldOut, Stage, spread
from llama_omni.train.stage_settings import StageTwoSettings
from llama_omni.train.state_cache import StateRow
from llama_omni.train.task import StepResult
from llama_omni.train.watch import CollapseWatch, UnitScore, blank_share


class StageTwo(Stage):
    """CTC on the answer's units; only the speech decoder learns.

    Takes examples, or `StateRow`s with the frozen LLM's states from a cache.

    Args:
        model: after stage 1.
        collator: with units.
        settings: see there.
        held_out: see there.
        product: see there.
    """

    def __init__(
        self,
        model: OmniModel,
        collator: Collator,
        settings: StageTwoSettings,
        *,
        held_out: HeldOut,
        product: Product,
    ) -> None:
        super().__init__(model, collator, settings, held_out, product)
        model.requires_grad_(False)
        model.speech_decoder.requires_grad_(True)
        self.collate = self._collate
        self._which = settings.ctc_states
        self._watch = CollapseWatch(
            warn_after=settings.collapse_warn,
            stop_after=settings.collapse_stop,
            batches=settings.accumulation,
            metrics=held_out.metrics,
        )

    def _collate(self, items: list[Any]) -> dict[str, Any]:
        if not isinstance(items[0], StateRow):
            return self._judge(items)
        long: list[str] = []
        rows = [item for item in items if len(item.tokens)]
        cut = [item.id for item in items if not len(item.tokens)]
        rows = [r for r in rows if self._judge.speakable(r.id, r.units, len(r.tokens), long)]
        batch = {"rows": len(items), "cut": cut, "too_long": long, "ids": [row.id for row in rows]}
        if rows:
            for name in ("states", "tokens"):
                values = [torch.from_numpy(getattr(row, name)) for row in rows]
                batch[name] = pad_sequence(values, batch_first=True)
            batch["lengths"] = torch.tensor([len(row.tokens) for row in rows])
            units = [torch.from_numpy(row.units) for row in rows]
            batch["units"] = pad_sequence(units, batch_first=True, padding_value=IGNORE)
        return batch

    def count(self, batch: dict[str, Any]) -> int:
        """Return the target units."""
        return int((batch["units"] != IGNORE).sum()) if batch["ids"] else 0

    def loss(self, batch: dict[str, Any], normaliser: Tensor) -> StepResult:
        """Return the CTC loss per target unit.

        Raises:
            TrainingError: the decoder has said nothing for too long.
        """
        numbers: dict[str, Any] = self._report(batch)
        if not batch["ids"]:
            self._watch.see(None)
            return StepResult(loss=self._idle(batch, normaliser), numbers=numbers)
        logits, frames = self._unit_logits(batch)
        loss = ctc_loss(logits, frames, batch["units"], normaliser=normaliser)
        blank = self.model.config.speech_decoder.blank
        share = float(blank_share(logits.argmax(dim=-1), frames, blank=blank))
        self._watch.see(share)
        return StepResult(loss=loss, numbers={**numbers, "blank_share": share})

    def _idle(self, batch: dict[str, Any], normaliser: Tensor) -> Tensor:
        """Return the loss of a batch without rows: 0, of a made-up row where weights are sharded.

        Sharded weights are gathered, and their gradients summed, by all processes together.
        """
        if self._settings.sharding != "fsdp":
            return torch.zeros((), device=normaliser.device)
        tokens = torch.zeros(1, 2, dtype=torch.long, device=normaliser.device)
        made_up = {"units": tokens[:, :1]}
        if "input_ids" in batch:
            row = {"input_ids": tokens, "attention_mask": tokens + 1, "labels": tokens}
        else:
            width = self.model.config.llm.hidden_size
            states = torch.zeros(1, 2, width, device=normaliser.device)
            row = {"states": states, "tokens": tokens, "lengths": tokens[:, 0] + 2}
        return 0 * self._unit_logits(made_up | row)[0].sum()

    def _unit_logits(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Return (B, L, K + 1) logits and (B,) frames of each answer, as training has them."""
        states, tokens, lengths = self._states(batch)
        targets = (batch["units"] != IGNORE).sum(dim=1)
        return self.model.speech_decoder(states, tokens, lengths=lengths, target_lengths=targets)

    def _states(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor | None, Tensor]:
        model = self.model
        if "states" not in batch:
            with torch.no_grad():
                merged, hidden = read_batch(model, batch)
                states, tokens, lengths = model.answer_states(hidden, merged, self._which)
            batch["tokens"] = answer_tokens(merged)
            return states, tokens, lengths
        tokens = None
        if model.config.speech_decoder.token_embedding:
            tokens = model.get_input_embeddings()(batch["tokens"])
        weight = model.speech_decoder.input_proj.weight
        return batch["states"].to(weight.dtype), tokens, batch["lengths"]

    def evaluate(self, step: int) -> dict[str, float]:
        """Return loss, unit error rate and what `UnitScore` counts, over all splits and of each.

        States are those of the true answer, as in training; the samples are real replies.
        """
        if not self._rows:
            return {}
        numbers: dict[str, float] = {}
        everything, loss, units = UnitScore(), 0.0, 0
        blanks: list[float] = []
        for name, rows in self._rows.items():
            score = UnitScore()
            for part in self._parts(rows):
                batch = to_device(self._judge(part), self.model.device)
                if not batch["ids"]:
                    continue
                logits, frames = self._unit_logits(batch)
                loss += float(ctc_loss(logits, frames, batch["units"], normaliser=1))
                units += self.count(batch)
                labels = logits.argmax(dim=-1)
                blank = self.model.config.speech_decoder.blank
                blanks.append(float(blank_share(labels, frames, blank=blank)))
                counts = (batch["labels"] != IGNORE).sum(dim=1).tolist()
                for row, count in enumerate(counts):
                    said = collapse(labels[row, : frames[row]].tolist(), blank=blank)
                    wanted = batch["units"][row][batch["units"][row] != IGNORE].tolist()
                    score.add(wanted, said, num_tokens=count)
                    everything.add(wanted, said, num_tokens=count)
            numbers[f"unit_error_{name}"] = score.numbers()["unit_error"]
        numbers |= everything.numbers()
        numbers["loss"] = loss / max(1, units)
        numbers["blank_share"] = sum(blanks) / max(1, len(blanks))
        self._write_replies(step)
        return numbers

    def _write_replies(self, step: int) -> None:
        """Write some replies, and speak them where there is a vocoder."""
        folder, vocoder = self._held_out.samples, self._held_out.vocoder
        rows = [(name, row) for name, rows in self._rows.items() for row in rows]
        rows = spread(rows, self._settings.samples)
        if folder is None or not rows:
            return
        lines = []
        replies = self._replies([row for _, row in rows])
        for (name, row), reply in zip(rows, replies, strict=True):
            units = say(self.model, reply)
            text = self._judge.tokenizer.decode(reply.token_ids)
            line = {"split": name, "id": row.id, "question": row.question, "wanted": row.answer}
            lines.append({**line, "reply": text, "units": units})
        self._write_samples(step, lines)
        if vocoder is None or not is_main():
            return
        vocoder.to(self.model.device)  # pyright: ignore[reportArgumentType]
        place = folder / f"step-{step:08d}"
        place.mkdir(exist_ok=True)
        for line in lines:
            sound = vocoder(torch.tensor(line["units"], dtype=torch.long, device=vocoder.device))
            _write_wav(place / f"{line['id']}.wav", sound, vocoder.sample_rate)


def _write_wav(path: Path, sound: Tensor, rate: int) -> None:
    """Write 16-bit mono; not by soundfile, which a machine that only trains may lack."""
    with wave.open(str(path), "wb") as stream:
        stream.setnchannels(1)
        stream.setsampwidth(2)
        stream.setframerate(rate)
        stream.writeframes(audio.pcm16_encode(sound.float().cpu().numpy()))
