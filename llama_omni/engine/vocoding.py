"""Streaming vocoder: units in pieces -> the sound that they make in one piece.

What is unusual: the generator is not causal, so some units at the end of a piece are held back as
context for the sound before them. They are counted as known: the sound of a chunk leaves when its
last unit arrives, it only speaks that many units fewer. Every push synthesises its left context,
the new sound and the right context again, and cross-fades from what the last push had already
synthesised for the same samples, so a seam costs no delay. Durations are exact always.

Planning (which frames) is apart from synthesis, so pushes of several replies share one batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from llama_omni.errors import ConfigError, InputError
from llama_omni.model.vocoder import UnitVocoder

DEFAULT_LOOKAHEAD = 2  # units; measured in docs/vocoder.md
DEFAULT_CROSSFADE_S = 0.005


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class VocoderState:
    """What a reply's next sound depends on; its size does not grow with the reply."""

    pending: tuple[int, ...] = ()  # units known, not yet spoken
    left_units: tuple[int, ...] = ()  # units before them that their durations depend on
    left_frames: tuple[int, ...] = ()  # frames before them that their sound depends on
    tail: Tensor | None = None  # the last synthesis of the next samples, to fade out of
    num_units: int = 0  # units spoken
    num_samples: int = 0  # samples given


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Spoken:
    """Samples of a reply, and the units that they speak. Both ranges exclude their end."""

    audio: Tensor  # (S,) float32 on the vocoder's device; empty while units are held back
    first_sample: int
    end_sample: int
    first_unit: int  # negative units are dropped and not counted
    end_unit: int
    unit_ends: tuple[int, ...] = ()  # the sample where each unit's sound ends


@dataclass(frozen=True, kw_only=True, slots=True)
class Push:
    """The next units of one reply, and its state; `final` says that no unit follows them."""

    units: Sequence[int]
    state: VocoderState
    final: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plan:
    """The frames of one synthesis: left context, the frames to give, right context."""

    frames: tuple[int, ...]
    first: int  # of the frames to give
    end: int
    after: VocoderState  # but for its tail, which is not synthesised yet
    durations: Sequence[int] = ()  # frames of each unit to give


class StreamingVocoder:
    """Speak units as they come, as the vocoder would speak them all at once.

    Args:
        vocoder: set to evaluation mode (dropout would change durations).
        lookahead: units held back from every push but a final one. Fewer than the vocoder's
            `duration_context` count as that many, for a duration is certain only then.
        crossfade_s: seconds over which a push fades from the last one's synthesis to its own; at
            most one frame, which is all that is certain to be the same units in both.

    Raises:
        ConfigError: for a negative look-ahead, or a cross-fade longer than a frame.
    """

    def __init__(
        self,
        vocoder: UnitVocoder,
        *,
        lookahead: int = DEFAULT_LOOKAHEAD,
        crossfade_s: float = DEFAULT_CROSSFADE_S,
    ) -> None:
        frame_s = vocoder.hop / vocoder.sample_rate
        if lookahead < 0:
            raise ConfigError(f"lookahead must be at least 0 units, got {lookahead}")
        if not 0.0 <= crossfade_s <= frame_s:
            raise ConfigError(
                f"crossfade_s must be between 0 and one frame ({frame_s} s), got {crossfade_s}"
            )
        self._vocoder = vocoder.eval()
        self._crossfade = round(crossfade_s * vocoder.sample_rate)  # samples
        self.held_units = max(lookahead, vocoder.duration_context)
        self._ramp = (torch.arange(self._crossfade, device=vocoder.device) + 0.5) / max(
            self._crossfade, 1
        )

    @property
    def exact_lookahead(self) -> int:
        """The look-ahead with which streaming equals offline: the whole receptive field.

        Each unit lasts at least a frame, and the last units' durations are not certain yet.
        """
        return self._vocoder.receptive_field + self._vocoder.duration_context

    def start(self) -> VocoderState:
        """Return the state of a reply that has no units yet."""
        return VocoderState()

    def push(
        self, units: Sequence[int], state: VocoderState, *, final: bool = False
    ) -> tuple[Spoken, VocoderState]:
        """Take the next units, give the sound of those whose look-ahead is known.

        Args:
            units: unit ids, any number of them; negative ones are dropped, as offline.
            state: what the last push of this reply returned, or `start()`.
            final: no unit follows: nothing is held back.

        Raises:
            InputError: for a unit that the vocoder does not know.
        """
        return self.push_many([Push(units=units, state=state, final=final)])[0]

    @torch.inference_mode()
    def push_many(self, pushes: Sequence[Push]) -> list[tuple[Spoken, VocoderState]]:
        """Push to several replies with one call of the vocoder; each sounds as it would alone."""
        pending = [push.state.pending + self._known(push.units) for push in pushes]
        ready = [
            len(units) if push.final else max(0, len(units) - self.held_units)
            for push, units in zip(pushes, pending, strict=True)
        ]
        durations = self._durations(
            [
                push.state.left_units + units if count else ()
                for push, units, count in zip(pushes, pending, ready, strict=True)
            ]
        )
        plans = [
            self._plan(push.state, units, count, frames)
            for push, units, count, frames in zip(pushes, pending, ready, durations, strict=True)
        ]
        waveforms = self._synthesise([plan.frames for plan in plans])
        return [
            self._cut(push.state, plan, waveform)
            for push, plan, waveform in zip(pushes, plans, waveforms, strict=True)
        ]

    def _known(self, units: Sequence[int]) -> tuple[int, ...]:
        units = tuple(unit for unit in units if unit >= 0)
        if units and max(units) >= self._vocoder.num_units:
            raise InputError(f"units must be below {self._vocoder.num_units}, got {max(units)}")
        return units

    def _plan(
        self,
        state: VocoderState,
        pending: tuple[int, ...],
        ready: int,
        durations: Sequence[int],  # of the left units, then of the pending ones
    ) -> _Plan:
        """Lay out the frames that speak the first `ready` of the pending units."""
        if not ready:
            return _Plan(frames=(), first=0, end=0, after=replace(state, pending=pending))
        durations = durations[len(state.left_units) :]
        new = _repeat(pending[:ready], durations[:ready])
        right = _repeat(pending[ready:], durations[ready:])
        known = state.left_frames + new
        return _Plan(
            frames=known + right[: self._vocoder.receptive_field],
            first=len(state.left_frames),
            end=len(known),
            durations=durations[:ready],
            after=VocoderState(
                pending=pending[ready:],
                left_units=_last(
                    state.left_units + pending[:ready], self._vocoder.duration_context
                ),
                left_frames=_last(known, self._vocoder.receptive_field),
                num_units=state.num_units + ready,
                num_samples=state.num_samples + len(new) * self._vocoder.hop,
            ),
        )

    def _cut(
        self, state: VocoderState, plan: _Plan, waveform: Tensor
    ) -> tuple[Spoken, VocoderState]:
        """Take the new samples out of a synthesis, and fade into them."""
        hop, size, after = self._vocoder.hop, self._crossfade, plan.after
        audio = waveform[plan.first * hop : plan.end * hop]  # (S,)
        if plan.frames:
            if state.tail is not None:
                begin = torch.lerp(state.tail, audio[:size], self._ramp)
                audio = torch.cat([begin, audio[size:]])  # (S,)
            tail = waveform[plan.end * hop :][:size]
            # A final push has no samples to fade out of, and nothing to fade into.
            after = replace(after, tail=tail.clone() if len(tail) == size else None)
        spoken = Spoken(
            audio=audio,
            first_sample=state.num_samples,
            end_sample=after.num_samples,
            first_unit=state.num_units,
            end_unit=after.num_units,
            unit_ends=tuple(state.num_samples + hop * end for end in accumulate(plan.durations)),
        )
        return spoken, after

    def _durations(self, rows: Sequence[tuple[int, ...]]) -> list[list[int]]:
        """Return how many frames each unit of each row lasts."""
        durations: list[list[int]] = [[] for _ in rows]
        filled = [place for place, row in enumerate(rows) if row]
        if filled:
            padded, lengths = self._pad([rows[place] for place in filled])
            found = self._vocoder.durations(padded, lengths).tolist()
            for place, frames in zip(filled, found, strict=True):
                durations[place] = frames[: len(rows[place])]
        return durations

    def _synthesise(self, rows: Sequence[tuple[int, ...]]) -> list[Tensor]:
        """Return the sound of each row's frames, in float32."""
        waveforms = [torch.zeros(0, device=self._vocoder.device) for _ in rows]
        filled = [place for place, row in enumerate(rows) if row]
        if filled:
            padded, lengths = self._pad([rows[place] for place in filled])
            found = self._vocoder.generate(padded, lengths).float()  # (B, S)
            for place, waveform in zip(filled, found, strict=True):
                waveforms[place] = waveform[: len(rows[place]) * self._vocoder.hop]
        return waveforms

    def _pad(self, rows: Sequence[tuple[int, ...]]) -> tuple[Tensor, Tensor | None]:
        """Return the rows as one batch on the device; lengths only where they differ."""
        sizes = [len(row) for row in rows]
        padded = pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
        lengths = torch.tensor(sizes, device=self._vocoder.device) if len(set(sizes)) > 1 else None
        return padded.to(self._vocoder.device), lengths


def _repeat(units: Sequence[int], durations: Sequence[int]) -> tuple[int, ...]:
    """Give one unit a frame."""
    return tuple(unit for unit, frames in zip(units, durations, strict=True) for _ in range(frames))


def _last(values: tuple[int, ...], count: int) -> tuple[int, ...]:
    return values[max(0, len(values) - count) :]
