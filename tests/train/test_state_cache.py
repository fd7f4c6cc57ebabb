from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from llama_omni.errors import TrainingError
from llama_omni.train import state_cache
from llama_omni.train.processes import Processes
from llama_omni.train.row_cache import RowCache
from llama_omni.train.runner import train
from llama_omni.train.state_cache import cached_features, cached_states
from tests.train.runs import lines
from tests.train.talk import (
    Examples,
    example,
    examples,
    loss_of,
    stage_one,
    stage_two,
    talking_model,
    turn,
)


def cached(task, rows, folder, **changes):
    return cached_states(task.model, task._judge, rows, folder, device="cpu", **changes)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("states", ["predicting", "labelled"])
def test_cached_states_give_the_loss_of_uncached(tmp_path, dtype, states):
    task = stage_two(*talking_model(), ctc_states=states)
    rows = Examples([example(0), example(1, history=(turn(3),)), example(2, answer="longer")])
    found = cached(task, rows, tmp_path, dtype=dtype, ctc_states=states)
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == "float32" else {"rtol": 5e-3, "atol": 0}
    assert_close(loss_of(task, [found[i] for i in range(3)]), loss_of(task, rows), **tolerance)


def test_run_on_cached_states_equals_the_run_without(tmp_path):
    rows = examples()
    for name in ("plain", "cached"):
        task = stage_two(*talking_model(), max_steps=5)
        data = cached(task, rows, tmp_path, dtype="float32") if name == "cached" else rows
        train(task, data, rows.lengths, task._settings, tmp_path / name)
    for a, b in zip(lines(tmp_path / "plain"), lines(tmp_path / "cached"), strict=True):
        assert a == pytest.approx(b, rel=1e-3)


def test_cache_is_made_once_and_again_for_other_weights(tmp_path):
    task, rows = stage_two(*talking_model()), examples(4)
    cached(task, rows, tmp_path)
    heard: list[int] = []
    task.model.encoder.register_forward_hook(lambda *_: heard.append(1))
    cached(task, rows, tmp_path)
    assert not heard
    task.model.speech_decoder.output_proj.bias.data += 1  # decides no state
    cached(task, rows, tmp_path)
    assert not heard
    task.model.adapter.linear2.bias.data += 1
    cached(task, rows, tmp_path)
    assert heard
    assert len(list(tmp_path.iterdir())) == 2


def test_rows_left_out_have_no_states(tmp_path):
    task = stage_two(*talking_model(max_positions=30))
    rows = Examples([example(0), example(1, answer="word " * 20), example(2)])
    found = cached(task, rows, tmp_path)
    batch = task.collate([found[i] for i in range(3)])
    assert batch["cut"] == ["sample-1"]
    assert batch["ids"] == ["sample-0", "sample-2"]
    assert task.count(task.collate([found[1]])) == 0


def test_cache_of_a_run_that_skips_long_targets_serves_one_that_stretches_them(tmp_path):
    model, tokenizer = talking_model()
    rows = Examples([example(0), example(1, answer="a", units=[0, 1] * 8), example(2)])
    skips, stretches = (stage_two(model, tokenizer, too_long=how) for how in ("skip", "stretch"))
    found = cached(skips, rows, tmp_path)
    batch = skips.collate([found[i] for i in range(3)])
    assert (batch["ids"], batch["too_long"]) == (["sample-0", "sample-2"], ["sample-1"])
    found = cached(stretches, rows, tmp_path)
    batch = stretches.collate([found[i] for i in range(3)])
    assert (batch["ids"], batch["cut"]) == (["sample-0", "sample-1", "sample-2"], [])
    assert len(list(tmp_path.iterdir())) == 1


@dataclass(frozen=True, kw_only=True, slots=True)
class LateProcess(Processes):
    """Rank 1, which looks when rank 0 has made some of what it found missing."""

    found: list[range]  # by rank 0

    def from_main(self, value: Any) -> Any:
        return self.found


def test_processes_share_what_the_first_found_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(state_cache, "RowCache", partial(RowCache, rows_per_shard=2))
    task, rows = stage_two(*talking_model()), examples(4)
    cached(task, rows, tmp_path)
    (folder,) = tmp_path.iterdir()
    (folder / "rows-00001.json").unlink()
    late = LateProcess(rank=1, world=2, device=torch.device("cpu"), found=[range(2), range(2, 4)])
    monkeypatch.setattr(state_cache, "set_up", lambda _: late)
    monkeypatch.setattr(state_cache, "_POLL_S", -1)  # to wait for rank 0 would raise
    cached(task, rows, tmp_path)
    assert (folder / "rows-00001.json").exists()


def test_cached_features_give_the_loss_of_uncached(tmp_path):
    model, tokenizer = talking_model()
    rows = Examples([example(0), example(1, history=(turn(3),)), example(2)])
    task = stage_one(model, tokenizer)
    plain = loss_of(task, rows)
    features = cached_features(model, task._judge, rows, tmp_path, device="cpu")
    task.collate = replace(task.collate, features=features)
    mute = [
        example(0, audio=np.zeros(0, np.float32)),
        example(1, audio=np.zeros(0, np.float32), history=(turn(3),)),
        example(2, audio=np.zeros(0, np.float32)),
    ]
    assert_close(loss_of(task, mute), plain, rtol=1e-3, atol=1e-3)  # kept in float16


FIELDS = {"a": ("float32", 2), "b": ("int32", 1)}


def row_cache(folder) -> RowCache:
    return RowCache(folder, key={"x": 1}, fields=FIELDS, num_rows=5, rows_per_shard=2)


def contents(rows):
    return [{"a": np.full((r, 2), r), "b": np.arange(r + 1)} for r in rows]


def fill(cache):
    for rows in cache.missing():
        cache.write(rows, contents(rows))


def test_row_cache_gives_back_what_was_written(tmp_path):
    fill(row_cache(tmp_path))
    cache = row_cache(tmp_path)
    assert not cache.missing()
    for row in range(5):
        assert cache[row]["a"].tolist() == [[row, row]] * row
        assert cache[row]["b"][:, 0].tolist() == list(range(row + 1))


def test_row_cache_goes_on_after_a_kill(tmp_path):
    cache = row_cache(tmp_path)
    first = cache.missing()[0]
    cache.write(first, contents(first))
    (cache.folder / "rows-00001.bin").write_bytes(b"half")  # killed before its index
    again = row_cache(tmp_path)
    assert again.missing() == [range(2, 4), range(4, 5)]
    fill(again)
    assert again[3]["b"][:, 0].tolist() == [0, 1, 2, 3]


def test_damaged_row_cache_is_named(tmp_path):
    cache = row_cache(tmp_path)
    fill(cache)
    path = cache.folder / "rows-00000.bin"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(TrainingError, match=r"rows-00000.bin must be as it was written, got row 1"):
        row_cache(tmp_path)[1]
    path.write_bytes(data[:-3])
    with pytest.raises(TrainingError, match=r"bytes instead of .*; delete rows-00000.json"):
        row_cache(tmp_path)[0]
    (cache.folder / "rows-00000.json").unlink()
    again = row_cache(tmp_path)
    fill(again)
    assert torch.equal(torch.from_numpy(again[1]["a"]), torch.ones(1, 2))
