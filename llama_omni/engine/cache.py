"""Slot caches: the keys and values of many conversations in one tensor a layer.

A *slot* is one conversation's row. `select` says which slots the next forward pass is for and where
each of them stands; Transformers' layers then call `update`, which is told no positions. Storage is
(slots, heads, capacity + 1, d): it grows by doubling, is given back when the last slot is freed,
and its last column is scratch, where padded rows of a captured graph write.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import Cache

from llama_omni.errors import CapacityError
from llama_omni.model.speech_decoder import SpeechDecoder

FIRST_CAPACITY = 64  # tokens


@dataclass(frozen=True, slots=True)
class Selection:
    """Where the next forward pass reads and writes."""

    rows: slice | Int[Tensor, " B"]  # slots; a slice reads without a copy
    positions: Int[Tensor, "B T"]  # cache columns of the new entries
    visible: int  # columns that are read
    mask: Bool[Tensor, "B 1 T visible"]  # True where a query may look


class SlotCache(Cache):
    """Keys and values of every slot, with a write position of its own for each row.

    Args:
        layers: layers that call `update`.
        heads: key-value heads.
        head_dim: d.
        dtype: of keys and values.
        device: where they live.
        frames: cache columns per token: 1 for the LLM, lambda for the speech decoder.
        max_tokens: longest a slot may get, in tokens.
        first_layer: `layer_idx` of the first layer stored here.

    `keep` is False: the last slot freed gives storage back. Where captured graphs hold addresses it
    is set to True, and storage stays.
    """

    def __init__(
        self,
        *,
        layers: int,
        heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
        frames: int = 1,
        max_tokens: int = 2048,
        first_layer: int = 0,
    ) -> None:
        super().__init__(layers=[])
        self.dtype, self.device = dtype, device
        self.frames, self.max_tokens = frames, max_tokens
        self.capacity = 0  # tokens
        self.keep = False
        self.version = 0  # grows when storage moves: captured graphs hold addresses
        self.lengths: dict[int, int] = {}  # tokens in each slot that is in use
        self._shape = (heads, head_dim)
        self._first_layer = first_layer
        self._stores: list[tuple[Tensor, Tensor]] = [self._empty() for _ in range(layers)]
        self._selection: Selection | None = None

    # Slots

    @property
    def num_slots(self) -> int:
        """Slots that storage exists for."""
        return self._stores[0][0].shape[0] if self._stores else len(self.lengths)

    @property
    def num_bytes(self) -> int:
        """Bytes of device memory that storage takes now."""
        return sum(t.numel() * t.element_size() for store in self._all_stores() for t in store)

    def allocate(self) -> int:
        """Take the lowest free slot; storage grows when there is none."""
        slot = next(i for i in range(len(self.lengths) + 1) if i not in self.lengths)
        self.reserve(slots=slot + 1, tokens=min(FIRST_CAPACITY, self.max_tokens))
        self.lengths[slot] = 0
        return slot

    def free(self, slot: int) -> None:
        """Give a slot back, empty: nothing of it may reach its next owner, not even a NaN."""
        if len(self.lengths) == 1 and not self.keep:
            self._resize(0, 0)
        else:  # all of it: a truncated or failed reply leaves more than its length says
            for store in self._all_stores():
                for tensor in store:
                    tensor[slot].zero_()
        del self.lengths[slot]

    def truncate(self, slot: int, tokens: int) -> None:
        """Forget what a slot holds beyond its first `tokens` tokens."""
        self.lengths[slot] = min(self.lengths[slot], tokens)

    def advance(self, slots: Sequence[int], tokens: int) -> None:
        """Count the tokens that a forward pass has just written to each slot."""
        for slot in slots:
            self.lengths[slot] += tokens

    def reserve(self, *, slots: int, tokens: int) -> None:
        """Make room for so many slots of so many tokens each.

        Raises:
            CapacityError: tokens are above `max_tokens`.
        """
        if tokens > self.max_tokens:
            raise CapacityError(
                f"a conversation must fit {self.max_tokens} positions, got {tokens}; start a new "
                "one, shorten the history, or lower max_new_tokens"
            )
        capacity = max(self.capacity, min(FIRST_CAPACITY, self.max_tokens))
        while capacity < tokens:
            capacity = min(2 * capacity, self.max_tokens)
        room = self.num_slots
        while room < slots:
            room = max(1, 2 * room)
        if room > self.num_slots or capacity > self.capacity:
            self._resize(room, capacity)

    def bytes_of(self, slots: int, tokens: int) -> int:
        """Return the bytes that storage for so many slots of so many tokens would take."""
        heads, head_dim = self._shape
        columns = slots * (tokens * self.frames + 1)
        return 2 * len(self._stores) * heads * head_dim * columns * self.dtype.itemsize

    def reshape(self, *, slots: int, tokens: int) -> None:
        """Give storage exactly this size, which must hold every slot in use; see `reserve`."""
        used = max(self.lengths, default=-1)
        assert used < slots or not self.lengths, f"slot {used} is in use"
        assert max(self.lengths.values(), default=0) <= tokens, "a slot holds more"
        if (slots, tokens) != (self.num_slots, self.capacity):
            self._resize(slots, tokens)

    # One forward pass

    def select(self, slots: Sequence[int], tokens: int) -> Selection:
        """Prepare for the next `tokens` tokens of each of `slots`."""
        starts = [self.lengths[slot] for slot in slots]
        self.reserve(slots=self.num_slots, tokens=max(starts) + tokens)
        offsets = torch.arange(tokens * self.frames, device=self.device)
        begin = torch.tensor(starts, device=self.device) * self.frames
        return self.use(
            self.rows_of(slots),
            begin[:, None] + offsets,
            visible=(max(starts) + tokens) * self.frames,
        )

    def use(self, rows: slice | Tensor, positions: Int[Tensor, "B T"], visible: int) -> Selection:
        """Prepare for writes at explicit columns; `select` and captured graphs end here."""
        columns = torch.arange(visible, device=self.device)
        mask = (columns <= positions[..., None])[:, None]  # (B, 1, T, visible)
        self._selection = Selection(rows, positions, visible, mask)
        return self._selection

    def rows_of(self, slots: Sequence[int]) -> slice | Tensor:
        """Address slots as a slice where they are neighbours, else by an index tensor."""
        if list(slots) == list(range(slots[0], slots[0] + len(slots))):
            return slice(slots[0], slots[0] + len(slots))
        return torch.tensor(slots, device=self.device)

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        layer_idx: int,
        *args: Any,  # noqa: ARG002 (their signature)
        **kwargs: Any,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor]:
        """Write (B, heads, T, d) at the selected columns; return all visible ones."""
        store = self._stores[layer_idx - self._first_layer]
        positions, visible = self.selection.positions, self.selection.visible
        self._write(store[0], key_states, positions)
        self._write(store[1], value_states, positions)
        return self._read(store[0], visible), self._read(store[1], visible)

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002
        """Tell Transformers how much is cached; positions are always given explicitly."""
        return self.selection.visible - self.selection.positions.shape[1]

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:  # noqa: ARG002
        """Tell Transformers how many columns a mask must cover, and from which one."""
        return self.selection.visible, 0

    @property
    def selection(self) -> Selection:
        """What `select` or `use` prepared."""
        assert self._selection is not None, "select slots before a forward pass"
        return self._selection

    # Storage

    def _all_stores(self) -> list[tuple[Tensor, ...]]:
        return list(self._stores)

    def _empty(self) -> tuple[Tensor, Tensor]:
        heads, head_dim = self._shape
        empty = torch.zeros(0, heads, 1, head_dim, dtype=self.dtype, device=self.device)
        return empty, empty.clone()

    def _resize(self, slots: int, capacity: int) -> None:
        columns = capacity * self.frames + 1
        for index, (keys, values) in enumerate(self._stores):  # one layer is there twice at a time
            self._stores[index] = (_grown(keys, slots, columns), _grown(values, slots, columns))
        self.capacity = capacity
        self.version += 1

    def _write(self, storage: Tensor, new: Tensor, positions: Int[Tensor, "B T"]) -> None:
        rows = self.selection.rows
        target = storage[rows] if isinstance(rows, slice) else storage
        index = (
            torch.arange(len(positions), device=self.device) if isinstance(rows, slice) else rows
        )
        target[index[:, None], :, positions] = new.transpose(1, 2).to(storage.dtype)  # (B, T, h, d)

    def _read(self, storage: Tensor, visible: int) -> Tensor:
        rows = self.selection.rows
        near = storage[:, :, :visible]
        return near[rows] if isinstance(rows, slice) else near.index_select(0, rows)


class SpeechCache(SlotCache):
    """The speech decoder's cache: every frame, but in the first layer one row a token.

    `SpeechDecoder.step` says why one row is exact there (ADR 0007).
    """

    def __init__(
        self, decoder: SpeechDecoder, *, dtype: torch.dtype, device: torch.device, max_tokens: int
    ) -> None:
        config = decoder.config
        heads, head_dim = config.num_heads, config.hidden_size // config.num_heads
        self._row_stores = (
            torch.zeros(0, heads, 1, head_dim, dtype=dtype, device=device),
            torch.zeros(0, heads, 1, head_dim, dtype=dtype, device=device),
            torch.zeros(0, 1, 1, config.upsample_factor, device=device),  # scales, float32
        )
        self._tables: tuple[Tensor, Tensor] | None = None
        self._tables_tokens = 0
        table = config.hidden_size * config.upsample_factor * dtype.itemsize
        self._tables_per_token = table if config.frame_embedding else 0
        super().__init__(
            layers=config.num_layers - 1,
            heads=heads,
            head_dim=head_dim,
            dtype=dtype,
            device=device,
            frames=config.upsample_factor,
            max_tokens=max_tokens,
            first_layer=1,
        )

    @property
    def num_slots(self) -> int:
        """Slots that storage exists for."""
        return self._row_stores[0].shape[0]

    @property
    def positions(self) -> Int[Tensor, "B L"]:
        """Frame positions of this step."""
        return self.selection.positions

    @property
    def mask(self) -> Bool[Tensor, "B 1 L visible"]:
        """True where a frame may look."""
        return self.selection.mask

    def update_rows(
        self, keys: Tensor, values: Tensor, scales: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Append the first layer's rows of this step's tokens; return all T visible ones."""
        visible = self.selection.visible // self.frames
        # A scratch row's frames are all in the last column, which is its token's column too.
        tokens = self.selection.positions[:, :: self.frames] // self.frames  # (B, M)
        for store, new in zip(self._row_stores, (keys, values, scales[:, None]), strict=True):
            self._write(store, new, tokens)
        seen_keys, seen_values, seen_scales = (self._read(s, visible) for s in self._row_stores)
        return seen_keys, seen_values, seen_scales[:, 0]

    def place_tables(self, decoder: SpeechDecoder) -> tuple[Tensor, Tensor] | None:
        """Return the place embedding's keys and values for the visible tokens."""
        if self._tables_tokens < self.capacity:
            self._tables = decoder.place_tables(self.capacity)
            self._tables_tokens = self.capacity
        if self._tables is None:
            return None
        tokens = self.selection.visible // self.frames
        return self._tables[0][:, :, :tokens], self._tables[1]

    def _all_stores(self) -> list[tuple[Tensor, ...]]:
        return [*self._stores, self._row_stores]

    @property
    def num_bytes(self) -> int:
        """Bytes of device memory that storage and the shared tables take now."""
        return super().num_bytes + sum(t.numel() * t.element_size() for t in self._tables or ())

    def bytes_of(self, slots: int, tokens: int) -> int:
        """Return the bytes that storage for so many slots of so many tokens would take."""
        heads, head_dim = self._shape
        row = 2 * heads * head_dim * self.dtype.itemsize + 4 * self.frames
        tables = self._tables_per_token * tokens
        return super().bytes_of(slots, tokens) + slots * (tokens + 1) * row + tables

    def _resize(self, slots: int, capacity: int) -> None:
        keys, values, scales = (_grown(s, slots, capacity + 1) for s in self._row_stores)
        super()._resize(slots, capacity)
        self._row_stores = (keys, values, scales)
        if not capacity:
            self._tables, self._tables_tokens = None, 0


def _grown(storage: Tensor, slots: int, columns: int) -> Tensor:
    """Copy storage into a larger or empty one; what was beyond stays zero."""
    _, heads, _, head_dim = storage.shape
    # Plain tensors, also when a step grows them: an inference tensor could not be zeroed later.
    with torch.inference_mode(False), torch.no_grad():
        grown = storage.new_zeros(slots, heads, columns, head_dim)
        if slots:
            kept_slots, kept = min(slots, len(storage)), min(columns, storage.shape[2]) - 1
            grown[:kept_slots, :, :kept] = storage[:kept_slots, :, :kept]
        return grown
