"""Segments of real speech with the unit of each frame, for vocoder training.

The answers' sound is unpacked once into a flat file beside the checkpoints and mapped into memory,
so that a random second costs one copy. What a step trains on hangs on the seed and the step alone:
a run that was killed goes on with the same segments, and no position needs saving.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from llama_omni.audio import SAMPLE_RATE, pcm16
from llama_omni.data.dataset import SpeechDataset
from llama_omni.errors import InputError, TargetError
from llama_omni.files import write_text
from llama_omni.train.row_cache import splits_hash

_SLACK_FRAMES = 2  # by which units may outlast the sound: framing rounds up or down


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Spoken:
    """One answer: its sound and the units that say it."""

    id: str
    sound: Float[Tensor, " S"]  # F * hop samples
    units: Int[Tensor, " U"]
    durations: Int[Tensor, " U"]  # frames of each, F in all


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SegmentBatch:
    """Segments of as many answers, and those answers' units."""

    ids: list[str]
    sound: Float[Tensor, "B S"]  # zeros after the end of an answer shorter than a segment
    frames: Int[Tensor, "B F"]
    lengths: Int[Tensor, " B"] | None  # real frames; None: all are
    units: Int[Tensor, "B U"]
    durations: Int[Tensor, "B U"]  # 0 after a row's end

    def to(self, device: torch.device) -> "SegmentBatch":
        """Return it on a device."""
        return SegmentBatch(
            ids=self.ids,
            sound=self.sound.to(device),
            frames=self.frames.to(device),
            lengths=None if self.lengths is None else self.lengths.to(device),
            units=self.units.to(device),
            durations=self.durations.to(device),
        )


class SpeechSegments:
    """The answers of a data set as one flat sound, mapped into memory.

    Args:
        folder: the data set.
        cache: where the flat sound goes, or already lies.
        num_units: K; a unit at or above it is refused.
        hop: samples per frame.
        max_hours: of speech to use; where the set has more, answers are drawn by the seed.
        held_out: answers kept out of `batch`, drawn by the seed.
        seed: of both draws, and of the segments.

    Raises:
        InputError: there are too few answers with units, or none is readable.
        TargetError: an answer's units and sound do not fit; names it.
    """

    def __init__(
        self,
        folder: Path,
        cache: Path,
        *,
        num_units: int,
        hop: int,
        max_hours: float,
        held_out: int,
        seed: int,
    ) -> None:
        self._hop, self._seed = hop, seed
        done = cache / "index.json"
        asked = {"set": identity(folder), "max_hours": max_hours, "seed": seed, "hop": hop}
        if not done.exists() or json.loads(done.read_text())["asked"] != asked:
            _unpack(folder, cache, asked, hop=hop, max_hours=max_hours, seed=seed)
        index = json.loads(done.read_text())
        self.ids: list[str] = index["ids"]
        self._units = np.load(cache / "units.npy")  # (2, all units): unit, frames
        self._unit_starts = np.cumsum([0, *index["num_units"]])
        self._frame_starts = np.cumsum([0, *index["num_frames"]])
        if len(self.ids) < 2:
            raise InputError(
                f"{folder} must hold at least 2 answers with sound and units, one of them to "
                f"measure with, got {len(self.ids)} within max_hours={max_hours:g}"
            )
        self._sound = np.memmap(cache / "sound.i16", dtype=np.int16, mode="r")
        highest = int(self._units[0].max())
        if highest >= num_units:
            owner = np.searchsorted(self._unit_starts, self._units[0].argmax(), "right") - 1
            raise TargetError(
                f"units of {self.ids[owner]!r} must be below {num_units}, got {highest}; set the "
                "vocoder's num_units to the K of the data set's k-means"
            )
        order = np.random.default_rng([seed, 1]).permutation(len(self.ids))
        kept = min(held_out, len(order) // 2)
        self.held_out = [int(place) for place in order[:kept]]
        self._training = np.sort(order[kept:])
        sizes = np.diff(self._frame_starts)[self._training]
        self._shares = sizes / sizes.sum()

    def __len__(self) -> int:
        """Answers to train on."""
        return len(self._training)

    def spoken(self, place: int) -> Spoken:
        """Return one answer, by its place in `ids`."""
        units, durations = self._units[:, self._unit_starts[place] : self._unit_starts[place + 1]]
        start, end = self._frame_starts[place : place + 2].tolist()
        return Spoken(
            id=self.ids[place],
            sound=self._cut(start, end),
            units=torch.from_numpy(units.astype(np.int64)),
            durations=torch.from_numpy(durations.astype(np.int64)),
        )

    def batch(self, size: int, frames: int, *, step: int, part: int) -> SegmentBatch:
        """Draw segments, from each answer in proportion to its length.

        Args:
            size: B, how many.
            frames: F, of each.
            step: of the optimiser.
            part: which batch of that step: another one for each process and accumulation.
        """
        draw = np.random.default_rng([self._seed, 2, step, part])
        places = draw.choice(self._training, size=size, p=self._shares)
        rows = [self.spoken(int(place)) for place in places]
        sounds, units, lengths = [], [], []
        for row in rows:
            each = torch.repeat_interleave(row.units, row.durations)  # (all frames,)
            first = int(draw.integers(0, max(0, len(each) - frames) + 1))
            units.append(each[first : first + frames])
            lengths.append(len(units[-1]))
            sounds.append(row.sound[first * self._hop : (first + frames) * self._hop])
        fits = min(lengths) == frames
        return SegmentBatch(
            ids=[row.id for row in rows],
            sound=pad_sequence(sounds, batch_first=True),
            frames=pad_sequence(units, batch_first=True),
            lengths=None if fits else torch.tensor(lengths),
            units=pad_sequence([row.units for row in rows], batch_first=True),
            durations=pad_sequence([row.durations for row in rows], batch_first=True),
        )

    def _cut(self, start: int, end: int) -> Float[Tensor, " S"]:
        pcm = self._sound[start * self._hop : end * self._hop]
        return torch.from_numpy(pcm.astype(np.float32) / 32768)


def identity(folder: Path) -> str:
    """Return a hash of the split that is learnt, so that no other set is taken for it."""
    return splits_hash(folder, ("train",))


def _unpack(
    folder: Path, cache: Path, asked: dict[str, object], *, hop: int, max_hours: float, seed: int
) -> None:
    """Write the flat sound, the units, and last the index that says that both are whole."""
    cache.mkdir(parents=True, exist_ok=True)
    (cache / "index.json").unlink(missing_ok=True)
    dataset = SpeechDataset(folder, columns=["answer_audio", "units", "durations"])
    chosen = _choose(dataset.lengths["answer_s"], dataset.lengths["num_units"], max_hours, seed)
    ids, num_units, num_frames = [], [], []
    pieces: list[NDArray[np.int32]] = [np.zeros((2, 0), np.int32)]
    with (cache / "sound.i16").open("wb") as sink:
        for place in chosen:
            row = dataset[int(place)]
            if row.answer_audio is None or row.units is None or row.durations is None:
                continue
            frames = int(row.durations.sum())
            sound = _fit(row.id, row.answer_audio, frames * hop, _SLACK_FRAMES * hop)
            if len(row.units) != len(row.durations) or min(row.durations, default=1) < 1:
                raise TargetError(f"{row.id!r} must have a duration of at least 1 for each unit")
            if frames:
                sink.write(sound.tobytes())
                ids.append(row.id)
                num_units.append(len(row.units))
                num_frames.append(frames)
                pieces.append(np.stack([row.units, row.durations]).astype(np.int32))
        sink.flush()
        os.fsync(sink.fileno())
    np.save(cache / "units.npy", np.concatenate(pieces, axis=1))
    index = {"asked": asked, "ids": ids, "num_units": num_units, "num_frames": num_frames}
    write_text(cache / "index.json", json.dumps(index))


def _choose(
    seconds: NDArray[np.float32], num_units: NDArray[np.int64], max_hours: float, seed: int
) -> Sequence[int]:
    """Return the rows with units, in order; of more than `max_hours`, a draw."""
    rows = np.flatnonzero(num_units > 0)
    if seconds[rows].sum() > max_hours * 3600:
        rows = np.random.default_rng([seed, 0]).permutation(rows)
        fits = np.cumsum(seconds[rows]) <= max_hours * 3600
        rows = np.sort(rows[fits])
    return rows.tolist()


def _fit(name: str, sound: NDArray[np.float32], samples: int, slack: int) -> NDArray[np.int16]:
    """Cut or fill the sound to the length that its units say, which is within a few frames."""
    if not samples - slack <= len(sound) <= samples + slack:
        raise TargetError(
            f"{name!r} must have units for its whole sound, got {samples / SAMPLE_RATE:.2f} s of "
            f"units for {len(sound) / SAMPLE_RATE:.2f} s"
        )
    filled = np.zeros(samples, np.int16)
    filled[: len(sound)] = pcm16(sound[:samples])
    return filled
