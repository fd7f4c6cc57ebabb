"""One step of Algorithm 1 for any number of replies: LLM -> sample -> embed -> speak -> argmax.

The host reads one small tensor a step (each row's token and its lambda labels) and nothing else.
Caches hold the state; the stepper holds weights and caches only.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from llama_omni.engine.attention import decoder_masks, use_grouped_attention
from llama_omni.engine.cache import SlotCache, SpeechCache
from llama_omni.engine.graphs import StepGraphs, bucket
from llama_omni.engine.sampling import sample
from llama_omni.model.cache_argument import cache_argument
from llama_omni.model.ctc import greedy_alignment
from llama_omni.model.omni import OmniModel

P = ParamSpec("P")
R = TypeVar("R")

PREFILL_PIECE = 512  # LLM positions a prefill pass takes at most


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One running reply: where its caches are and how its next token is chosen."""

    llm_slot: int
    speech_slot: int | None  # None: a written reply only
    position: int = 0  # index of the next token in the reply; keys the sampling noise
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class _How:
    """What all rows of a step have in common."""

    speech: bool
    greedy: bool

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "_How":
        greedy = all(row.temperature == 0 for row in rows)
        return cls(speech=rows[0].speech_slot is not None, greedy=greedy)


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step gave each row."""

    tokens: list[int]
    labels: list[list[int]]  # lambda frame labels a row, blank included; none without speech


def _one_at_a_time(method: Callable[P, R]) -> Callable[P, R]:
    """Hold the stepper's lock, and track no gradients, during a method."""

    @wraps(method)
    def locked(*args: P.args, **kwargs: P.kwargs) -> R:
        stepper = cast(Stepper, args[0])
        with stepper.lock, torch.inference_mode():
            return method(*args, **kwargs)

    return locked


class Stepper:
    """The device side of the engine. Its methods may be called from several threads.

    Args:
        model: in eval mode, on its device, in its dtype.
        max_tokens: reply tokens that a speech slot may hold.
        graphs: capture steps as CUDA graphs; None: yes on CUDA, no elsewhere.
    """

    def __init__(
        self, model: OmniModel, *, max_tokens: int = 2048, graphs: bool | None = None
    ) -> None:
        self.model = model
        self.lock = threading.RLock()  # one pass, or one change of the slots, at a time
        config = model.config
        llm, device, dtype = config.llm, model.device, model.dtype
        use_grouped_attention(model.llm)
        heads = getattr(llm, "num_key_value_heads", None) or llm.num_attention_heads
        head_dim = getattr(llm, "head_dim", None) or llm.hidden_size // llm.num_attention_heads
        self.llm_cache = SlotCache(
            layers=llm.num_hidden_layers,
            heads=heads,
            head_dim=head_dim,
            dtype=dtype,
            device=device,
            max_tokens=config.max_positions,
        )
        self.speech_cache = SpeechCache(
            model.speech_decoder, dtype=dtype, device=device, max_tokens=max_tokens
        )
        self._speaks_tokens = config.speech_decoder.token_embedding
        self._frames = config.speech_decoder.upsample_factor
        on_cuda = device.type == "cuda"
        self._graphs = StepGraphs(device, capture=on_cuda) if graphs or on_cuda else None
        self.llm_cache.keep = self.speech_cache.keep = self._graphs is not None

    @_one_at_a_time
    def prefill(self, slot: int, embeddings: Float[Tensor, "P D"]) -> Float[Tensor, "1 D"]:
        """Read a prompt, or more of one, into a slot; return the state of its last position.

        Raises:
            CapacityError: the conversation would be longer than the model's positions.
        """
        self.llm_cache.reserve(
            slots=slot + 1, tokens=self.llm_cache.lengths[slot] + len(embeddings)
        )
        hidden = embeddings[:0]
        for piece in embeddings.split(PREFILL_PIECE):
            self.llm_cache.select([slot], len(piece))
            hidden = self._think(piece[None])[:, -1]  # (1, D)
            self.llm_cache.advance([slot], len(piece))
        return hidden

    @_one_at_a_time
    def first(self, rows: Sequence[Row], hidden: Float[Tensor, "B D"]) -> StepResult:
        """Choose and speak the first token of each row from its prompt's last state."""
        integers, floats = self._inputs(rows, [0] * len(rows))
        speech_slots = _speech_slots(rows)
        if speech_slots:
            self.speech_cache.select(speech_slots, 1)
        how = _How.of(rows)
        packed = self._speak(hidden, integers, floats, how)
        self.speech_cache.advance(speech_slots, 1)
        return _unpack(packed)

    @_one_at_a_time
    def step(self, rows: Sequence[Row], tokens: Sequence[int]) -> StepResult:
        """Feed each row its last token; choose and speak the next one.

        Either every row speaks or none does.
        """
        llm_slots = [row.llm_slot for row in rows]
        speech_slots = _speech_slots(rows)
        if self._graphs is None:
            integers, floats = self._inputs(rows, tokens)
            self.llm_cache.select(llm_slots, 1)
            if speech_slots:
                self.speech_cache.select(speech_slots, 1)
            packed = self._step(integers, floats, _How.of(rows))
        else:
            packed = self._graphed_step(rows, tokens)
        self.llm_cache.advance(llm_slots, 1)
        self.speech_cache.advance(speech_slots, 1)
        return _unpack(packed)

    @_one_at_a_time
    def warm_up(self, *, tokens: int, prompt: int = 400, rows: int = 1) -> None:
        """Capture what replies of up to `tokens` tokens will need, before anyone waits for it.

        Args:
            tokens: of each reply.
            prompt: LLM positions in front of it; other buckets are captured when first met.
            rows: replies at a time.
        """
        if self._graphs is None:
            return
        tokens = min(tokens, self.speech_cache.max_tokens)
        prompt = min(prompt, self.llm_cache.max_tokens - tokens)
        llm_slots = [self.llm_cache.allocate() for _ in range(rows)]
        speech_slots = [self.speech_cache.allocate() for _ in range(rows)]
        self.llm_cache.reserve(slots=rows, tokens=prompt + tokens)
        self.speech_cache.reserve(slots=rows, tokens=tokens)
        pairs = list(zip(llm_slots, speech_slots, strict=True))
        batch = [Row(llm_slot=llm, speech_slot=speech) for llm, speech in pairs]
        met: set[tuple[int, int]] = set()
        for made in range(1, tokens):
            needs = bucket(prompt + made), bucket(made + 1)
            if needs not in met:
                met.add(needs)
                for llm, speech in pairs:
                    self.llm_cache.lengths[llm] = prompt + made - 1
                    self.speech_cache.lengths[speech] = made
                self.step(batch, [0] * rows)
        for llm, speech in pairs:
            self.llm_cache.free(llm)
            self.speech_cache.free(speech)

    # The computation

    def _step(
        self, integers: Int[Tensor, "B 5"], floats: Float[Tensor, "B 2"], how: "_How"
    ) -> Int[Tensor, "B packed"]:
        embedded = self.model.get_input_embeddings()(integers[:, :1])  # (B, 1, D)
        return self._speak(self._think(embedded)[:, -1], integers, floats, how)

    def _think(self, embeddings: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        selection = self.llm_cache.selection
        decoder: Any = self.model.llm.get_decoder()
        output = decoder(
            inputs_embeds=embeddings.to(self.model.dtype),
            attention_mask=decoder_masks(
                self.model.llm.config, selection.mask, selection.positions, self.model.dtype
            ),
            position_ids=selection.positions,
            use_cache=True,
            **{cache_argument(decoder): self.llm_cache},
        )
        return output.last_hidden_state  # after the final norm

    def _speak(
        self,
        hidden: Float[Tensor, "B D"],
        integers: Int[Tensor, "B 5"],
        floats: Float[Tensor, "B 2"],
        how: "_How",
    ) -> Int[Tensor, "B packed"]:
        logits = self.model.token_logits(hidden)  # (B, V)
        if how.greedy:  # spares the sort of the whole vocabulary
            chosen = logits.argmax(-1)
        else:
            chosen = sample(
                logits,
                temperature=floats[:, 0],
                top_p=floats[:, 1],
                seed=integers[:, 1],
                position=integers[:, 2],
            )
        if not how.speech:
            return chosen[:, None]
        embedded = None
        if self._speaks_tokens:
            embedded = self.model.get_input_embeddings()(chosen)[:, None]  # (B, 1, D)
        frames = self.model.speech_decoder.step(hidden[:, None], embedded, self.speech_cache)
        return torch.cat((chosen[:, None], greedy_alignment(frames)), dim=1)  # (B, 1 + lambda)

    # Inputs

    def _inputs(self, rows: Sequence[Row], tokens: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Pack what a step needs of each row: token, seed, reply position, two cache lengths."""
        integers = torch.tensor(
            [
                (
                    token,
                    row.seed,
                    row.position,
                    self.llm_cache.lengths[row.llm_slot],
                    0 if row.speech_slot is None else self.speech_cache.lengths[row.speech_slot],
                )
                for row, token in zip(rows, tokens, strict=True)
            ]
        )
        floats = torch.tensor([(row.temperature, row.top_p) for row in rows])
        device = self.model.device
        return integers.to(device, non_blocking=True), floats.to(device, non_blocking=True)

    def _graphed_step(self, rows: Sequence[Row], tokens: Sequence[int]) -> Tensor:
        assert self._graphs is not None
        llm, speech = self.llm_cache, self.speech_cache
        llm_slots, speech_slots = [row.llm_slot for row in rows], _speech_slots(rows)
        llm_seen = _make_room(llm, llm_slots)
        speech_seen = _make_room(speech, speech_slots) if speech_slots else 0
        size = bucket(len(rows), least=1)
        spare = size - len(rows)  # rows that only write to scratch
        integers, floats = self._inputs(rows, tokens)
        if spare:
            padding = integers.new_tensor([[0, 0, 0, llm.capacity, speech.capacity]])
            integers = torch.cat((integers, padding.expand(spare, -1)))
            floats = torch.cat((floats, floats[:1].expand(spare, -1)))
        slots = torch.tensor(
            [llm_slots + [0] * spare, (speech_slots or [0] * len(rows)) + [0] * spare],
            device=self.model.device,
        )
        alone = size == 1  # one row reads its slot in place, without a gather
        which = (llm_slots[0], rows[0].speech_slot) if alone else None
        how = _How.of(rows)
        key = (size, how, llm_seen, speech_seen, which)

        def compute(integers: Tensor, floats: Tensor, slots: Tensor) -> Tensor:
            llm.use(
                slice(llm_slots[0], llm_slots[0] + 1) if alone else slots[0],
                integers[:, 3:4],
                llm_seen,
            )
            if speech_slots:
                places = torch.arange(self._frames, device=integers.device)
                # A scratch row writes all its frames to the one scratch column.
                places = (integers[:, 4:] < speech.capacity) * places
                speech.use(
                    slice(speech_slots[0], speech_slots[0] + 1) if alone else slots[1],
                    integers[:, 4:] * self._frames + places,
                    speech_seen * self._frames,
                )
            return self._step(integers, floats, how)

        packed = self._graphs.run(
            key, compute, integers, floats, slots, version=(llm.version, speech.version)
        )
        return packed[: len(rows)]


def _speech_slots(rows: Sequence[Row]) -> list[int]:
    slots = [row.speech_slot for row in rows if row.speech_slot is not None]
    assert len(slots) in (0, len(rows)), "either every row speaks or none does"
    return slots


def _make_room(cache: SlotCache, slots: Sequence[int]) -> int:
    """Reserve one more token for each slot; return the bucket of tokens that a step reads."""
    longest = max(cache.lengths[slot] for slot in slots) + 1
    cache.reserve(slots=cache.num_slots, tokens=longest)
    return min(bucket(longest), cache.capacity)


def _unpack(packed: Int[Tensor, "B packed"]) -> StepResult:
    values = packed.tolist()  # the one synchronisation with the device
    return StepResult([row[0] for row in values], [row[1:] for row in values])
