import pytest
import torch

from llama_omni.errors import ConfigError
from llama_omni.train.processes import set_up


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.parametrize(
    ("name", "found"),
    [("auto", "cuda"), ("cuda", "cuda"), ("cuda:1", "cuda:1"), ("cpu", "cpu")],
)
def test_one_process_takes_the_device_it_is_told(two_gpus, name, found):
    assert set_up(name).device == torch.device(found)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cuda:9", "device 'cuda:9' must exist, found cuda:0, cuda:1"),
        ("cuda:x", r"device must be auto, cpu or cuda\[:N\], got 'cuda:x'"),
        ("gpu", r"device must be auto, cpu or cuda\[:N\], got 'gpu'"),
    ],
)
def test_device_that_is_not_there_is_refused(two_gpus, name, message):
    with pytest.raises(ConfigError, match=message):
        set_up(name)


def test_cuda_without_a_device_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="device 'cuda' must exist, found no CUDA device"):
        set_up("cuda")


def test_one_device_for_several_processes_is_refused(two_gpus, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        ConfigError, match="cuda for 2 processes, got 'cuda:1'; with cuda each process takes one"
    ):
        set_up("cuda:1")
