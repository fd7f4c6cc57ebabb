import pytest
import torch

from llama_omni.engine.cache import FIRST_CAPACITY, SlotCache
from llama_omni.errors import CapacityError


def make(max_tokens=256):
    return SlotCache(
        layers=1,
        heads=2,
        head_dim=4,
        dtype=torch.float32,
        device=torch.device("cpu"),
        max_tokens=max_tokens,
    )


def write(cache, slots, values):
    """Write one recognisable number a row as the next token's key and value."""
    cache.select(slots, 1)
    new = torch.tensor(values).float()[:, None, None, None].expand(-1, 2, 1, 4)
    keys, _ = cache.update(new, new, 0)
    cache.advance(slots, 1)
    return keys[:, 0, :, 0]


def test_rows_write_at_their_own_positions():
    cache = make()
    a, b, c = (cache.allocate() for _ in range(3))
    write(cache, [a], [1])
    write(cache, [a, c], [2, 20])
    assert cache.lengths == {a: 2, b: 0, c: 1}
    keys = write(cache, [c, a], [21, 3])
    assert keys[0, :2].tolist() == [20, 21]
    assert keys[1, :3].tolist() == [1, 2, 3]
    assert cache.selection.mask[:, 0, 0].tolist() == [[True, True, False], [True] * 3]


def test_storage_grows_without_losing_anything():
    cache = make()
    slot = cache.allocate()
    for i in range(FIRST_CAPACITY + 1):
        keys = write(cache, [slot], [i])
    assert cache.capacity == 2 * FIRST_CAPACITY
    assert keys[0].tolist() == list(range(FIRST_CAPACITY + 1))
    other = cache.allocate()
    assert write(cache, [other], [7])[0].tolist() == [7]


def test_freed_slot_is_empty_for_its_next_owner():
    cache = make()
    keep, gone = cache.allocate(), cache.allocate()
    write(cache, [keep, gone], [1, float("nan")])
    cache.free(gone)
    assert cache.allocate() == gone
    assert all(torch.isfinite(t).all() for store in cache._all_stores() for t in store)
    assert cache.lengths[gone] == 0


def test_truncated_slot_leaves_nothing_behind_either():
    cache = make()
    keep, gone = cache.allocate(), cache.allocate()
    write(cache, [keep, gone], [1, 2])
    write(cache, [keep, gone], [1, float("nan")])
    cache.truncate(gone, 1)
    cache.free(gone)
    assert all(torch.isfinite(t).all() for store in cache._all_stores() for t in store)


def test_slot_that_cannot_be_made_is_not_taken(monkeypatch):
    cache = make()

    def no_memory(slots, capacity):
        raise MemoryError

    monkeypatch.setattr(cache, "_resize", no_memory)
    with pytest.raises(MemoryError):
        cache.allocate()
    assert cache.lengths == {}


def test_storage_for_slots_grows_by_doubling():
    cache = make()
    versions = [(cache.allocate(), cache.version)[1] for _ in range(8)]
    assert versions == [1, 2, 3, 3, 4, 4, 4, 4]


def test_last_free_gives_the_memory_back():
    cache = make()
    slot = cache.allocate()
    write(cache, [slot], [1])
    assert cache.num_bytes > 0
    version = cache.version
    cache.free(slot)
    assert cache.num_bytes == 0
    assert cache.num_slots == 0
    assert cache.version > version


def test_truncated_slot_continues_from_there():
    cache = make()
    slot = cache.allocate()
    for value in (1, 2, 3):
        write(cache, [slot], [value])
    cache.truncate(slot, 1)
    assert write(cache, [slot], [9])[0].tolist() == [1, 9]


def test_cache_names_its_limit():
    cache = make(max_tokens=2)
    slot = cache.allocate()
    write(cache, [slot], [1])
    write(cache, [slot], [2])
    with pytest.raises(CapacityError, match="must fit 2 positions, got 3"):
        cache.select([slot], 1)
