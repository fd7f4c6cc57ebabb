"""(b) Seconds per token at a position of the reply: streaming against recomputing everything.

Streaming is `Stepper.step` with its caches. Offline is what the reference does at every token: a
step of the LLM, then the whole speech decoder over all frames so far. Both are measured at a few
positions only: caches are set to the length they have there (their contents are zeros, which cost
the same). Positions take turns within a round, so that a machine that slows down slows them all.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from llama_omni.bench.settings import BenchSettings, Spread, seconds_of
from llama_omni.bench.subject import Subject
from llama_omni.engine.step import Row

PROMPT_POSITIONS = 128  # what the LLM has read before the reply
BASE_POSITION = 64  # what the last position is compared with


def measure_per_token(subject: Subject, settings: BenchSettings) -> dict[str, Any]:
    """Measure both ways at each position.

    Returns:
        `rows`, one a position: seconds of a streamed token, of its written part alone (the step
        without the speech decoder) and of an offline one, None where the budget left it out; and
        `growth`, the last position's streamed seconds over those at 64, round by round.
    """
    positions = sorted(settings.positions)
    streaming: dict[int, list[float]] = {position: [] for position in positions}
    written: dict[int, list[float]] = {position: [] for position in positions}
    offline: dict[int, list[float]] = {position: [] for position in positions}
    reply = _LongReply(subject, tokens=positions[-1] + settings.steps)
    try:
        for position in positions:  # pays for allocations, libraries and captured graphs
            reply.streaming_s(position)
            reply.written_s(position)
        for _ in range(settings.repeats):
            for position in positions:
                for _ in range(settings.steps):
                    streaming[position].append(reply.streaming_s(position))
                    written[position].append(reply.written_s(position))
                if affordable(position, offline, settings.offline_budget_s):
                    offline[position].append(reply.offline_s(position))
    finally:
        reply.close()
    rows = [
        {
            "position": position,
            "streaming_s": Spread.of(streaming[position]),
            "written_s": Spread.of(written[position]),
            "offline_s": Spread.of(offline[position]) if offline[position] else None,
        }
        for position in positions
    ]
    base = BASE_POSITION if BASE_POSITION in positions else positions[0]
    last = positions[-1]
    growth = [b / a for a, b in zip(streaming[base], streaming[last], strict=True)]
    return {
        "prompt_positions": PROMPT_POSITIONS,
        "rows": rows,
        "growth": {"from": base, "to": last, "ratio": Spread.of(growth)},
    }


def affordable(position: int, taken: Mapping[int, Sequence[float]], budget_s: float) -> bool:
    """Tell whether one more recomputation at a position fits the budget of that position.

    A first one is predicted from the longest that was run: at most the square of the length.
    """
    if taken[position]:
        return sum(taken[position]) + taken[position][-1] <= budget_s
    measured = [p for p, seconds in taken.items() if seconds and p < position]
    if not measured:
        return True
    longest = max(measured)
    return taken[longest][-1] * (position / longest) ** 2 <= budget_s


class _LongReply:
    """A reply that stands at any position at once, without the steps that lead there."""

    def __init__(self, subject: Subject, *, tokens: int) -> None:
        self._subject = subject
        self._stepper = stepper = subject.assistant.stepper
        llm, speech = stepper.llm_cache, stepper.speech_cache
        self._llm_slot, self._speech_slot = llm.allocate(), speech.allocate()
        llm.reserve(slots=self._llm_slot + 1, tokens=PROMPT_POSITIONS + tokens)
        speech.reserve(slots=self._speech_slot + 1, tokens=tokens)
        D = stepper.model.config.llm.hidden_size
        self._hidden = torch.randn(
            1, tokens, D, dtype=stepper.model.dtype, device=subject.device
        )  # what the reference keeps of every token

    def close(self) -> None:
        """Give the slots back."""
        self._stepper.llm_cache.free(self._llm_slot)
        self._stepper.speech_cache.free(self._speech_slot)

    def streaming_s(self, position: int) -> float:
        """Time the step that makes the token at a position, caches and all."""
        return self._time_step(position, self._speech_slot)

    def written_s(self, position: int) -> float:
        """Time the same step without the speech decoder."""
        return self._time_step(position, None)

    def offline_s(self, position: int) -> float:
        """Time the same token as the reference makes it."""
        decoder = self._stepper.model.speech_decoder
        states = self._hidden[:, :position]  # (1, M, D)
        tokens = states if decoder.config.token_embedding else None
        row = self._stand_at(position, None)

        @torch.inference_mode()
        def recompute() -> None:
            self._stepper.step([row], [0])
            decoder(states, tokens)[0].argmax(-1).tolist()

        return seconds_of(recompute, self._subject.device, self._subject.clock)

    def _time_step(self, position: int, speech_slot: int | None) -> float:
        row = self._stand_at(position, speech_slot)
        return seconds_of(
            lambda: self._stepper.step([row], [0]), self._subject.device, self._subject.clock
        )

    def _stand_at(self, position: int, speech_slot: int | None) -> Row:
        # Before a token is made, its predecessor is still to be read by the LLM.
        self._stepper.llm_cache.lengths[self._llm_slot] = PROMPT_POSITIONS + position - 2
        self._stepper.speech_cache.lengths[self._speech_slot] = position - 1
        return Row(llm_slot=self._llm_slot, speech_slot=speech_slot, position=position - 1)
