import pytest
import torch

from llama_omni.model.adapter import SpeechAdapter
from llama_omni.model.config import AdapterConfig


@pytest.fixture
def adapter():
    return SpeechAdapter(AdapterConfig(hidden_dim=4, stack=5), encoder_dim=8, llm_dim=6)


def test_adapter_drops_incomplete_last_stack(adapter):
    features = torch.randn(2, 13, 8)
    out = adapter(features)
    assert out.shape == (2, 2, 6)
    torch.testing.assert_close(out, adapter(features[:, :10]))


def test_adapter_stacks_frame_after_frame(adapter):
    features = torch.randn(1, 5, 8)
    expected = adapter.linear2(adapter.linear1(features.flatten()).relu())
    torch.testing.assert_close(adapter(features)[0, 0], expected)


def test_shape_contract_is_checked_in_tests(adapter):
    with pytest.raises(Exception, match="features"):
        adapter(torch.randn(13, 8))
