"""Devices by name."""

import pytest
import torch

from llama_omni.errors import ConfigError
from llama_omni.model.device import find_device


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cuda", "units.device 'cuda' must exist, found no CUDA device"),
        ("cuda:x", r"units.device must be auto, cpu or cuda\[:N\], got 'cuda:x'"),
        ("xpu", "units.device 'xpu' must exist, got: "),
        ("meta", "units.device 'meta' must exist, got: "),
    ],
)
def test_device_that_is_not_there_is_refused_by_the_field_that_named_it(monkeypatch, name, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=message):
        find_device(name, field="units.device")


def test_device_is_the_processor_where_there_is_no_other(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device("auto") == find_device("cpu") == torch.device("cpu")
