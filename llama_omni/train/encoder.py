"""Pretraining of the speech encoder from nothing, for those who have no Whisper.

Two CTC losses (`CTCEncoder`), sound varied anew each time it is heard (`Augmenter`), each row at
its own length. On a CPU the time goes into the layers, so batches hold rows of like length and
nothing else is computed twice.
"""

import json
import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import WhisperConfig

from llama_omni.audio import HOP, SAMPLE_RATE
from llama_omni.errors import ConfigError
from llama_omni.interfaces import Audio
from llama_omni.metrics import spoken_words
from llama_omni.model.ctc import ctc_loss
from llama_omni.model.encoder import feature_lengths, log_mel
from llama_omni.model.tokenizer import TextTokenizer, load_tokenizer
from llama_omni.prompt import IGNORE
from llama_omni.train.augment import Augmenter, AugmentSettings
from llama_omni.train.encoder_model import CTCEncoder
from llama_omni.train.processes import full_state, is_main, set_up
from llama_omni.train.row_cache import splits_hash, tokens_hash
from llama_omni.train.run_folder import fixed_settings, fixed_sizes
from llama_omni.train.runner import TrainResult, train
from llama_omni.train.sampler import as_part
from llama_omni.train.settings import TrainSettings
from llama_omni.train.spoken_rows import Joined, SpokenRows
from llama_omni.train.stage import spread
from llama_omni.train.task import StepResult

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderSettings:
    """What is learnt from the sound, and how it is judged."""

    aux_layer: int = 3  # layers below the characters' head
    aux_weight: float = 1.0  # of the characters' loss; both are sums over labels
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    clean_steps: int = 500  # in which sound stays as it is: varied from the start, no word emerges
    ramp_steps: int = 2000  # after those, over which the share of varied utterances rises
    augmented: float = 0.9  # to this
    held_out_rows: int = 200  # at most, of each held-out split
    batch_size: int = 16  # of evaluation

    def __post_init__(self) -> None:
        if not 0 <= self.aux_weight < math.inf:
            raise ConfigError(
                f"encoder.aux_weight must be 0 or more and finite, got {self.aux_weight}"
            )
        if not 0.0 <= self.augmented <= 1.0:
            raise ConfigError(f"encoder.augmented must be 0 to 1, got {self.augmented}")
        for name in ("clean_steps", "ramp_steps"):
            if getattr(self, name) < 0:
                raise ConfigError(f"encoder.{name} must be 0 or more, got {getattr(self, name)}")
        for name in ("held_out_rows", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"encoder.{name} must be at least 1, got {getattr(self, name)}")


def train_encoder(
    data: Path,
    tokenizer: Path,
    output: Path,
    *,
    config: WhisperConfig,
    settings: EncoderSettings,
    training: TrainSettings,
    splits: Sequence[str] = ("train",),
    held_out: Sequence[str] = ("test_seen", "test_unseen"),
    start: Path | None = None,
) -> TrainResult:
    """Train an encoder on a data set's questions; goes on where it was stopped.

    Args:
        data: A folder that `llama-omni data build` made.
        tokenizer: Folder of the language model that the encoder is for.
        output: See `runner.train`; output/final and output/best are encoders that
            `SpeechEncoder.from_pretrained` reads, output/samples what was recognised when,
            output/samples16 the decoded sound, which can be deleted afterwards.
        config: Whisper's configuration.
        settings: What is learnt and how sounds are varied.
        training: The run; `metric="wer"` keeps the best by the mean of the held-out splits.
        splits: Those that are learnt.
        held_out: Splits to judge by.
        start: What an earlier run made, to begin with instead of nothing: for more voices, or for a
            new room. Begin varied at once, by `clean_steps=0` and `ramp_steps=0`.

    Raises:
        CheckpointError: `start` holds no such encoder.
        ConfigError: nothing is to be learnt, or `start` has another shape, tokeniser or alphabet.
    """
    if not splits:
        raise ConfigError("splits must name at least one that is learnt, got none")
    processes = set_up(training.device)
    opened = [
        SpokenRows(data, split, cache=output / "samples16", processes=processes)
        for split in (*splits, *held_out)
    ]
    longest_s = 2 * config.max_source_positions * HOP / SAMPLE_RATE  # of a whole window
    rows = Joined(opened[: len(splits)], longest_s=longest_s)
    judged = [Joined([part], longest_s=longest_s) for part in opened[len(splits) :]]
    if (left_out := rows.num_left_out) and processes.is_main:
        logger.warning("questions left out longer_than_s=%g rows=%d", longest_s, left_out)
    torch.manual_seed(training.seed)
    torch.set_flush_denormal(True)  # numbers near zero cost a CPU a hundred times more
    text = load_tokenizer(tokenizer)
    task = EncoderTask(
        config,
        text,
        alphabet=alphabet_of(rows.questions),
        held_out=dict(zip(held_out, judged, strict=True)),
        settings=settings,
        samples=output / "samples",
    )
    if start is not None:
        _begin_with(start, task.model)
    fixed = fixed_settings("encoder", settings, free=("batch_size",))
    fixed |= fixed_sizes("speech_encoder", config)
    fixed |= {"splits": splits, "held_out": held_out, "tokenizer_hash": tokens_hash(text)}
    fixed["data_hash"] = splits_hash(data, (*splits, *held_out))
    return train(task, rows, rows.seconds, training, output, start=start, fixed=fixed)


class EncoderTask:
    """CTC pretraining as a `Task` of the runner.

    Args:
        config: Whisper's configuration.
        tokenizer: The language model's.
        alphabet: Characters of the transcripts, see `alphabet_of`.
        held_out: Examples by the name of their split; each with `audio`, `question`, `voice`.
        settings: See there.
        samples: Folder for what was recognised at each evaluation; None: not written.
    """

    def __init__(
        self,
        config: WhisperConfig,
        tokenizer: TextTokenizer,
        *,
        alphabet: str,
        held_out: Mapping[str, Any],
        settings: EncoderSettings,
        samples: Path | None = None,
    ) -> None:
        self.model: Any = CTCEncoder(
            config,
            alphabet=alphabet,
            vocab_size=len(tokenizer.inner),
            aux_layer=settings.aux_layer,
        )
        self._settings, self._tokenizer, self._samples = settings, tokenizer, samples
        self._characters = {character: i for i, character in enumerate(alphabet)}
        self._num_mels, self._window = config.num_mel_bins, self.model.encoder.window
        self._augmenter = Augmenter(settings.augment, seed=0)
        self._strength = settings.augmented
        self._held_out = {
            split: sorted(spread(rows, settings.held_out_rows), key=lambda row: len(row.audio))
            for split, rows in held_out.items()
        }

    def begin_step(self, step: int) -> None:
        """Note the step whose batch comes next: sound is varied more and more."""
        s = self._settings
        risen = (step - s.clean_steps) / max(1, s.ramp_steps)
        self._strength = s.augmented * min(1.0, max(0.0, risen))

    def collate(self, items: list[Any]) -> dict[str, Any]:
        """Vary each sound, compute log-mel, and pad."""
        draw = int(np.random.randint(2**31))  # the runner seeds it for each step
        part = as_part(items)

        def other(number: int) -> Audio:
            return part.other(number).audio

        sounds = [
            self._augmenter.waveform(
                item.audio, draw=draw, index=place, other=other, strength=self._strength
            )
            for place, item in enumerate(part, start=part.first)
        ]
        sounds = [  # slowed down, it may no longer fit
            sound if len(sound) // HOP <= self._window else item.audio
            for sound, item in zip(sounds, items, strict=True)
        ]
        batch = self._batch(sounds, [item.question for item in items])
        batch["mel"] = self._augmenter.mel(
            batch["mel"],
            batch["mel_lengths"],
            draw=draw,
            indices=range(part.first, part.first + len(part)),
            strength=self._strength,
        )
        return batch

    def count(self, batch: dict[str, Any]) -> int:
        """Return the tokens of the transcripts."""
        return int((batch["tokens"] != IGNORE).sum())

    def loss(self, batch: dict[str, Any], normaliser: Tensor) -> StepResult:
        """Return both CTC losses per token."""
        characters, tokens = self.model.losses(**batch)
        count = (batch["tokens"] != IGNORE).sum()
        loss = (tokens + self._settings.aux_weight * characters) / normaliser
        numbers = {"tokens": tokens.detach() / count, "characters": characters.detach() / count}
        return StepResult(loss=loss, numbers=numbers)

    @torch.no_grad()
    def evaluate(self, step: int) -> dict[str, float]:
        """Return loss, word and sentence error rates of each held-out split, and by voice."""
        if not self._held_out:
            return {}
        numbers: dict[str, float] = {}
        heard: list[dict[str, str]] = []
        loss = num_tokens = 0.0
        for split, rows in self._held_out.items():
            errors: dict[str, list[tuple[int, int]]] = defaultdict(list)  # wrong words, all words
            for first in range(0, len(rows), self._settings.batch_size):
                part = rows[first : first + self._settings.batch_size]
                summed, count, texts = self._judge(part)
                loss, num_tokens = loss + summed, num_tokens + count
                for row, text in zip(part, texts, strict=True):
                    said, found = spoken_words(row.question), spoken_words(text)
                    errors[row.voice].append((edit_distance(said, found), len(said)))
                    line = {"said": " ".join(said), "heard": " ".join(found)}
                    heard.append({"split": split, "voice": row.voice, **line})
            numbers |= _rates(split, errors)
        numbers["loss"] = loss / max(1.0, num_tokens)
        numbers["wer"] = float(np.mean([numbers[f"wer_{split}"] for split in self._held_out]))
        if self._samples is not None and is_main():
            self._samples.mkdir(parents=True, exist_ok=True)
            lines = [json.dumps(line, ensure_ascii=False) + "\n" for line in heard]
            (self._samples / f"step-{step}.jsonl").write_text("".join(lines), encoding="utf-8")
        return numbers

    def _judge(self, rows: Sequence[Any]) -> tuple[float, int, list[str]]:
        """Return the tokens' loss, their count, and what is recognised."""
        batch = self._batch([row.audio for row in rows], [row.question for row in rows])
        batch = {name: value.to(self._device) for name, value in batch.items()}
        logits, lengths = self.model(batch["mel"], batch["mel_lengths"])[1], batch["mel_lengths"]
        loss = ctc_loss(
            logits, feature_lengths(lengths), batch["tokens"], normaliser=1, infeasible="zero"
        )
        texts = [self._tokenizer.decode(ids) for ids in self.model.read(logits, lengths)]
        return float(loss), self.count(batch), texts

    def save(self, folder: Path) -> None:
        """Write the encoder as a Transformers folder, its heads, and the tokeniser, on rank 0."""
        state = full_state(self.model)
        if not is_main():
            return
        self.model.save(folder, state)
        self._tokenizer.inner.save_pretrained(str(folder))

    def _batch(self, sounds: Sequence[Audio], texts: Sequence[str]) -> dict[str, Tensor]:
        mels = [self.mel(sound) for sound in sounds]
        transcripts = [" ".join(spoken_words(text)) for text in texts]
        known = self._characters
        return {
            "mel": pad_sequence([mel.T for mel in mels], batch_first=True).transpose(1, 2),
            "mel_lengths": torch.tensor([mel.shape[-1] for mel in mels]),
            "characters": _padded([[known[c] for c in text if c in known] for text in transcripts]),
            "tokens": _padded([self._spelled(text) for text in transcripts]),
        }

    def _spelled(self, text: str) -> list[int]:
        ids = self._tokenizer.encode(text)
        return ids[1:] if ids[:1] == [self._tokenizer.bos_token_id] else ids

    def mel(self, sound: Audio) -> Float[Tensor, "n_mels F"]:
        """Compute log-mel as `OmniModel` does for a sound of any length up to the window."""
        return log_mel(torch.from_numpy(sound)[None], num_mels=self._num_mels)[0]

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device


def _begin_with(start: Path, model: CTCEncoder) -> None:
    """Take the weights of an encoder of the same shape."""
    found = CTCEncoder.load(start)
    for name in ("alphabet", "vocab_size", "aux_layer"):
        ours, theirs = getattr(model, name), getattr(found, name)
        if ours != theirs:
            raise ConfigError(f"{name} of {start} must be {ours!r}, this run's, got {theirs!r}")
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    for name, value in found.state_dict().items():
        if shapes.get(name) != value.shape:
            raise ConfigError(
                f"{start} must have this run's shape, got {name} of {tuple(value.shape)}"
            )
    model.load_state_dict(found.state_dict())


def alphabet_of(texts: Iterable[str]) -> str:
    """Return the characters that transcripts of these texts are written with, sorted."""
    found = {character for text in texts for character in " ".join(spoken_words(text))}
    return "".join(sorted(found))


def edit_distance(reference: Sequence[Any], hypothesis: Sequence[Any]) -> int:
    """Count the insertions, deletions and substitutions between two sequences."""
    row = list(range(len(hypothesis) + 1))
    for i, wanted in enumerate(reference, start=1):
        diagonal, row[0] = row[0], i
        for j, found in enumerate(hypothesis, start=1):
            changed = diagonal + (wanted != found)
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, changed)
    return row[-1]


def _rates(split: str, errors: Mapping[str, Sequence[tuple[int, int]]]) -> dict[str, float]:
    """Return word and sentence error rates of a split, and sentence errors of each voice."""
    rows = [pair for pairs in errors.values() for pair in pairs]
    numbers = {
        f"wer_{split}": sum(wrong for wrong, _ in rows) / max(1, sum(count for _, count in rows)),
        f"sentence_error_{split}": sum(wrong > 0 for wrong, _ in rows) / max(1, len(rows)),
    }
    for voice, pairs in sorted(errors.items()):
        wrong = sum(wrong > 0 for wrong, _ in pairs)
        numbers[f"sentence_error_{split}/{voice}"] = wrong / len(pairs)
    return numbers


def _padded(rows: Sequence[Sequence[int]]) -> Int[Tensor, "B U"]:
    tensors = [torch.tensor(row, dtype=torch.long) for row in rows]
    return pad_sequence(tensors, batch_first=True, padding_value=IGNORE)
