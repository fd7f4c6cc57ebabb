"""Data set examples as batches: token ids, labels, sounds and target units, all padded.

Runs in loader workers, so it holds a configuration and a tokeniser but no weights. Rows that the
model cannot take are left out and named in the batch, never cut in silence.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from llama_omni.audio import HOP
from llama_omni.errors import InputError, TargetError
from llama_omni.interfaces import Turn
from llama_omni.model.config import OmniConfig
from llama_omni.model.encoder import log_mel
from llama_omni.model.tokenizer import TextTokenizer
from llama_omni.prompt import IGNORE, SPEECH_TOKEN, encode_example, encode_prompt, prompt_template
from llama_omni.train.sampler import Part, as_part

TRANSCRIBE = "Write down what the user says, word for word."  # system prompt of such rows


@dataclass(slots=True, eq=False)
class Row:
    """One conversation as the model reads it."""

    id: str
    ids: list[int]
    labels: list[int]  # IGNORE but for the last answer
    sounds: list[Any]  # of its spoken turns: (S,) samples, or (N, E) cached features
    mel_lengths: list[int]
    units: NDArray[np.int64] | None = None

    @property
    def num_answer_tokens(self) -> int:
        """Tokens of the answer, its closing one included."""
        return sum(label != IGNORE for label in self.labels)


class Words:
    """A tokeniser that remembers pieces: a prompt's are the same in every row.

    One thread: the tokeniser's own pool costs more than it saves on a sentence, a hundredfold on a
    busy machine, and does not survive a fork into loader workers.
    """

    SIZE = 1 << 15  # pieces

    def __init__(self, encode: Callable[[str], list[int]]) -> None:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self._encode = encode
        self._known: dict[str, list[int]] = {}

    def __call__(self, text: str) -> list[int]:
        """Return the ids of a text, from memory where it came before."""
        if text not in self._known:
            if len(self._known) >= self.SIZE:
                self._known.clear()
            self._known[text] = self._encode(text)
        return list(self._known[text])


@dataclass(frozen=True, kw_only=True)
class Collator:
    """Makes batches of `data.dataset.Example`s.

    Attributes:
        config: of the model.
        tokenizer: the LLM's.
        history: whether earlier turns are read.
        units: whether target units are wanted.
        too_long: what becomes of targets with more units than lambda frames a token, which no
            reply can say in time: "stretch" gives them more frames (as the reference does), "skip"
            leaves them out, "raise" raises. Targets that no frames help are skipped, or raise.
        skip_cut: leave out rows too long for the model's positions or ears; else they raise.
        text_share: of the rows, whose turns are written instead of spoken.
        transcribe_share: of the rows, which ask for what was said instead of an answer to it.
        transcribed: ids of rows that always do, for they have no answer.
        written_too: add the same conversations, written, for a text-only teacher.
        augmenter: varies the sounds; see `train.augment.Augmenter`.
        features: gives encoder features by an example's id, see `train.feature_cache`.
    """

    config: OmniConfig
    tokenizer: TextTokenizer
    history: bool = True
    units: bool = False
    too_long: str = "stretch"
    skip_cut: bool = True
    text_share: float = 0.0
    transcribe_share: float = 0.0
    transcribed: frozenset[str] = frozenset()
    written_too: bool = False
    augmenter: Any = None
    features: Any = None

    @cached_property
    def words(self) -> "Words":
        """The tokeniser, remembering what it has encoded."""
        return Words(self.tokenizer.encode)

    def __call__(self, items: Sequence[Any]) -> dict[str, Any]:
        """Make a batch.

        Returns:
            ids (names), input_ids, attention_mask and labels; mel (or features) and mel_lengths of
            all spoken turns, absent if there are none; units; rows, the number asked for; cut and
            too_long, the names of rows left out or stretched. With no row left, input_ids is
            (0, 0).

        Raises:
            InputError: a row has no sound, or does not fit the model and `skip_cut` is off.
            TargetError: a row has no units, or too many and `too_long` is "raise".
        """
        part = as_part(items)
        draw = int(np.random.randint(2**31))  # the runner seeds it for each step
        rows: list[Row] = []
        cut: list[str] = []
        long: list[str] = []
        kept: list[Any] = []
        drawn: list[int] = []  # of each row that is kept: what its sounds' variation follows from
        for place, item in enumerate(part, start=part.first):
            asks, writes = np.random.default_rng((draw, place)).random(2)
            only = asks < self.transcribe_share or item.id in self.transcribed
            only = bool(only) and not item.written
            written = bool(writes < self.text_share and not only) or item.written
            row = self.row(item, written=written, transcribe=only)
            if self.augmenter is not None:
                self._vary(row, draw, place, part)
            if reason := self._misfit(row):
                if not self.skip_cut:
                    raise InputError(f"sample {row.id}: {reason}")
                cut.append(row.id)
            elif not self.units or self.speakable(row.id, row.units, row.num_answer_tokens, long):
                rows.append(row)
                kept.append((item, only))
                drawn += [_drawn(place, turn) for turn in range(len(row.sounds))]
        batch = {"rows": len(items), "cut": cut, "too_long": long}
        batch |= {"ids": [row.id for row in rows], **_tokens(rows), **self.sounds(rows)}
        if self.augmenter is not None and "mel" in batch:
            batch["mel"] = self.augmenter.mel(
                batch["mel"], batch["mel_lengths"], draw=draw, indices=drawn
            )
        if self.units:
            batch["units"] = _pad([torch.from_numpy(row.units) for row in rows], IGNORE)
        if self.written_too:
            teacher = _tokens([self.row(it, written=True, transcribe=only) for it, only in kept])
            batch |= {f"written_{name}": value for name, value in teacher.items()}
        return batch

    def row(self, example: Any, *, written: bool = False, transcribe: bool = False) -> Row:
        """Encode one example; its labels cover the last answer, or the question's own words."""
        turns = self.turns(example, written=written)
        if transcribe:
            turns = [Turn(role="system", text=TRANSCRIBE), turns[-1]]
        answer = example.question if transcribe else example.answer
        turns.append(Turn(role="assistant", text=answer))
        ids, labels = encode_example(
            turns,
            self.words,
            prompt_template(self.config.prompt),
            bos_token_id=self.tokenizer.bos_token_id,
        )
        prompt = len(self.prompt(turns[:-1]))
        sounds: list[Any] = [turn.audio for turn in turns if turn.audio is not None]
        if self.features is not None and sounds:
            sounds, lengths = self.features(example.id)
        else:
            lengths = [self._mel_length(len(sound)) for sound in sounds]
        return Row(
            id=example.id,
            ids=ids,
            labels=[IGNORE] * prompt + labels[prompt:],
            sounds=sounds,
            mel_lengths=lengths,
            units=example.units if self.units else None,
        )

    def turns(self, example: Any, *, written: bool = False) -> list[Turn]:
        """Return an example's turns up to its question."""
        turns: list[Turn] = []
        for earlier in example.history if self.history else ():
            spoken = earlier.audio is not None and not written
            words = {"audio": earlier.audio} if spoken else {"text": earlier.question}
            turns.append(Turn(role="user", **words))
            turns.append(Turn(role="assistant", text=earlier.answer))
        if not written and not len(example.audio) and self.features is None:
            raise InputError(f"sample {example.id}: its question must have sound, got none")
        words = {"text": example.question} if written else {"audio": example.audio}
        return [*turns, Turn(role="user", **words)]

    def prompt(self, turns: Sequence[Turn]) -> list[int]:
        """Return the ids after which the model answers."""
        return encode_prompt(
            turns,
            self.words,
            prompt_template(self.config.prompt),
            bos_token_id=self.tokenizer.bos_token_id,
        )

    def sounds(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Return mel (or features) and mel_lengths of all spoken turns, padded; {} of none."""
        sounds = [sound for row in rows for sound in row.sounds]
        if not sounds:
            return {}
        lengths = torch.tensor([length for row in rows for length in row.mel_lengths])
        if self.features is not None:
            features = pad_sequence([torch.from_numpy(s) for s in sounds], batch_first=True)
            return {"features": features, "mel_lengths": lengths}  # (R, N, E)
        mel = pad_sequence([self._mel(torch.from_numpy(s)).T for s in sounds], batch_first=True)
        return {"mel": mel.transpose(1, 2), "mel_lengths": lengths}  # (R, n_mels, F)

    def _mel(self, sound: Tensor) -> Float[Tensor, "n_mels F"]:
        if self.config.pad_to_window:
            size = 2 * self.config.encoder.max_source_positions * HOP
            sound = torch.nn.functional.pad(sound, (0, max(0, size - len(sound))))[:size]
        return log_mel(sound[None], num_mels=self.config.encoder.num_mel_bins)[0]

    def _mel_length(self, samples: int) -> int:
        window = 2 * self.config.encoder.max_source_positions
        return window if self.config.pad_to_window else samples // HOP

    def _vary(self, row: Row, draw: int, place: int, part: Part) -> None:
        def other(number: int) -> Any:
            sound = part.other(number).audio
            return sound if len(sound) else row.sounds[0]  # a written row has none

        row.sounds = [
            self.augmenter.waveform(sound, draw=draw, index=_drawn(place, turn), other=other)
            for turn, sound in enumerate(row.sounds)
        ]
        row.mel_lengths = [self._mel_length(len(sound)) for sound in row.sounds]

    def unfit(self, example: Any) -> str:
        """Say why an example can be neither learnt nor judged; "" if it can."""
        long: list[str] = []
        try:
            row = self.row(example)
            if reason := self._misfit(row):
                return reason
            if self.units and not self.speakable(row.id, row.units, row.num_answer_tokens, long):
                return f"{len(example.units)} target units are more than its frames"
        except (InputError, TargetError) as error:
            return str(error).removeprefix(f"sample {example.id}: ")
        return ""

    def _misfit(self, row: Row) -> str:
        """Say why a model of this configuration cannot read a row; "" if it can."""
        window, limit = 2 * self.config.encoder.max_source_positions, self.config.max_positions
        if row.mel_lengths and max(row.mel_lengths) > window:
            return f"a turn must be at most {window} mel frames, got {max(row.mel_lengths)}"
        heard = sum((n + 1) // 2 // self.config.adapter.stack for n in row.mel_lengths)
        positions = len(row.ids) - row.ids.count(SPEECH_TOKEN) + heard
        if positions > limit:
            return f"it must fit max_positions={limit}, got {positions} positions"
        return ""

    def speakable(
        self, name: str, units: NDArray[np.int64] | None, num_tokens: int, long: list[str]
    ) -> bool:
        """Whether an answer's units can be learnt; notes those with more units than frames.

        Raises:
            TargetError: see `__call__`.
        """
        decoder = self.config.speech_decoder
        if units is None or not len(units):
            raise TargetError(f"sample {name}: it must have target units, got none")
        worst = int(units.max() if units.min() >= 0 else units.min())
        if not 0 <= worst < decoder.num_units:
            raise TargetError(
                f"sample {name}: units must be 0 to {decoder.num_units - 1}, got {worst}"
            )
        repeats = int((units[1:] == units[:-1]).sum())
        needed, frames = len(units) + repeats, num_tokens * decoder.upsample_factor
        if needed <= frames:
            return True
        long.append(name)
        if self.too_long == "raise":
            raise TargetError(
                f"sample {name}: {len(units)} units with {repeats} adjacent repeats need "
                f"{needed} frames, got {frames} for {num_tokens} tokens"
            )
        return self.too_long == "stretch" and needed <= max(frames, len(units))


def _drawn(place: int, turn: int) -> int:
    """Number a sound by its row's place in the step and its turn."""
    return place + (turn << 24)


def _tokens(rows: Sequence[Row]) -> dict[str, Int[Tensor, "B I"]]:
    return {
        "input_ids": _pad([torch.tensor(row.ids) for row in rows], 0),
        "attention_mask": _pad([torch.ones(len(row.ids), dtype=torch.long) for row in rows], 0),
        "labels": _pad([torch.tensor(row.labels) for row in rows], IGNORE),
    }


def _pad(rows: Sequence[Tensor], value: int) -> Int[Tensor, "B I"]:
    if not rows:
        return torch.zeros(0, 0, dtype=torch.long)
    return pad_sequence(list(rows), batch_first=True, padding_value=value)
