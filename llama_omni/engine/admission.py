"""Which replies may run: as many as their caches' bytes allow, at their longest.

A reply is admitted with what it will need if it gets as long as it may, so none fails for want of
memory halfway. Storage is rectangular (slots times the longest), so what counts is the size that it
would have with the newcomer, rounded up to spare later moves where the limit allows, exact where
not. What an idle conversation keeps counts too; the engine evicts it when that makes room.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch

from llama_omni.engine.cache import FIRST_CAPACITY, SlotCache
from llama_omni.engine.graphs import bucket
from llama_omni.engine.step import Stepper
from llama_omni.engine.talk import Job, Talk
from llama_omni.errors import CapacityError

CPU_BYTES = 2 * 2**30  # where the device has no memory of its own to ask
FREE_SHARE = 0.6  # of free device memory: steps, the encoder and the vocoder need some too
_MIB = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """What a reply needs at its longest."""

    llm_tokens: int  # prompt and reply
    speech_tokens: int  # 0: a written reply


@dataclass(frozen=True, slots=True)
class _Pool:
    """One cache, the slots in use that stay, whether one more is wanted, and the longest."""

    cache: SlotCache
    kept: frozenset[int]
    one_more: bool
    longest: int

    def shapes(self) -> list[tuple[int, int]]:
        """Return sizes that would do, the one that moves least first, the smallest last."""
        new = next(i for i in range(len(self.kept) + 1) if i not in self.kept)
        slots = max([*self.kept, new] if self.one_more else self.kept, default=-1) + 1
        if not slots:
            return [(self.cache.num_slots, self.cache.capacity), (0, 0), (0, 0)]
        tokens = max(self.longest, min(FIRST_CAPACITY, self.cache.max_tokens))
        rounded = bucket(slots, least=1), min(bucket(tokens), self.cache.max_tokens)
        grown = max(self.cache.num_slots, rounded[0]), max(self.cache.capacity, rounded[1])
        return [grown, rounded, (slots, tokens)]


class Admission:
    """Counts the bytes of a stepper's caches.

    Args:
        stepper: whose caches.
        limit: bytes; None: `FREE_SHARE` of the device's free memory, `CPU_BYTES` on a CPU.
    """

    def __init__(self, stepper: Stepper, limit: int | None) -> None:
        self._llm, self._speech = stepper.llm_cache, stepper.speech_cache
        self.limit = _free_bytes(stepper.model.device) if limit is None else limit
        self._needs: dict[int, Need] = {}

    @property
    def used(self) -> int:
        """Bytes that the caches take now."""
        return self._llm.num_bytes + self._speech.num_bytes

    def refuse_impossible(self, need: Need) -> None:
        """Refuse what would not fit alone.

        Raises:
            CapacityError: says what it would take, and the limit.
        """
        size = self._llm.bytes_of(1, max(need.llm_tokens, FIRST_CAPACITY))
        if need.speech_tokens:
            size += self._speech.bytes_of(1, max(need.speech_tokens, FIRST_CAPACITY))
        if size > self.limit:
            raise CapacityError(
                f"a reply must fit {self.limit / _MIB:.1f} MiB of cache, got one of up to "
                f"{need.llm_tokens} positions that needs {size / _MIB:.1f} MiB; lower "
                "max_new_tokens, shorten the history, or raise engine.cache_bytes"
            )

    def admit(self, key: int, need: Need, *, has_slot: bool, idle: Collection[int] = ()) -> bool:
        """Make room for a reply and its slots, if it fits; it then holds it until `release`.

        Args:
            key: of the reply.
            need: at its longest.
            has_slot: its conversation has an LLM slot already.
            idle: LLM slots that would be given up for it. They are counted out, but nothing is
                made: True then says that evicting them would help.
        """
        needs = [*self._needs.values(), need]
        llm_lengths = {s: n for s, n in self._llm.lengths.items() if s not in idle}
        pools = [
            _Pool(
                self._llm,
                frozenset(llm_lengths),
                not has_slot,
                max([*llm_lengths.values(), *(n.llm_tokens for n in needs)]),
            ),
            _Pool(
                self._speech,
                frozenset(self._speech.lengths),
                need.speech_tokens > 0,
                max(n.speech_tokens for n in needs),
            ),
        ]
        for shapes in zip(*(pool.shapes() for pool in pools), strict=True):
            sizes = zip(pools, shapes, strict=True)
            if sum(pool.cache.bytes_of(*shape) for pool, shape in sizes) <= self.limit:
                if not idle:
                    for pool, (slots, tokens) in zip(pools, shapes, strict=True):
                        pool.cache.reshape(slots=slots, tokens=tokens)
                    self._needs[key] = need
                return True
        return False

    def admit_evicting(self, job: Job, need: Need, idle: Sequence[Talk]) -> int | None:
        """Make room for a reply, at the cost of idle conversations if nothing else helps.

        Args:
            job: the reply.
            need: at its longest.
            idle: conversations that hold an LLM slot and make no use of it.

        Returns:
            How many were evicted, those unused for longest first; None where it does not fit.
        """
        has_slot = job.talk.context is not None
        if self.admit(job.key, need, has_slot=has_slot):
            return 0
        slots = [talk.context.slot for talk in idle if talk.context is not None]
        if not slots or not self.admit(job.key, need, has_slot=has_slot, idle=slots):
            return None
        for count, talk in enumerate(sorted(idle, key=lambda talk: talk.used), start=1):
            talk.evict()
            if self.admit(job.key, need, has_slot=has_slot):
                return count
        return None

    def release(self, key: int) -> None:
        """Give back what a reply held."""
        self._needs.pop(key, None)


def _free_bytes(device: torch.device) -> int:
    if device.type != "cuda":
        return CPU_BYTES
    return int(FREE_SHARE * torch.cuda.mem_get_info(device)[0])
