import pytest
import torch
from torch.testing import assert_close

from llama_omni.train.state_cache import cached_states
from tests.train.talk import example, examples, loss_of, stage_one, stage_two, talking_model


def test_silence_added_to_a_batch_changes_neither_loss_nor_gradients():
    rows = examples(3)
    found = {}
    for sharding in ("none", "fsdp"):
        task = stage_one(*talking_model(), text_share=1.0, sharding=sharding, distill_weight=1.0)
        loss = loss_of(task, rows)
        loss.backward()
        parameters = task.model.adapter.parameters()
        assert all((p.grad is None) == (sharding == "none") for p in parameters)
        found[sharding] = loss, task.model.llm.model.norm.weight.grad
    assert_close(found["fsdp"], found["none"])


@pytest.mark.parametrize("stage", [stage_one, stage_two])
def test_batch_without_rows_uses_every_sharded_weight(tmp_path, stage):
    task = stage(*talking_model(max_positions=30), sharding="fsdp")
    full, left_out = (task.collate([row]) for row in (example(0), example(1, answer="word " * 20)))
    assert left_out["ids"] == []
    used = []
    for batch in (full, left_out):
        task.model.zero_grad()
        result = task.loss(batch, torch.tensor(1.0))
        result.loss.backward()
        used.append({n for n, p in task.model.named_parameters() if p.grad is not None})
    assert float(result.loss.detach()) == 0
    assert used[0] == used[1]
    assert not any(p.grad.any() for p in task.model.parameters() if p.grad is not None)


def test_batch_of_cached_states_without_rows_uses_every_sharded_weight(tmp_path):
    task, rows = stage_two(*talking_model(max_positions=30), sharding="fsdp"), examples(1)
    rows.append(example(1, answer="word " * 20))
    states = cached_states(task.model, task._judge, rows, tmp_path, device="cpu")
    loss = task.loss(task.collate([states[1]]), torch.tensor(1.0)).loss
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(p.grad is not None for p in task.model.speech_decoder.parameters())
