"""Folders that the checkpoint tests may damage."""

import shutil

import pytest
from checkpoint_tools import OMNI, small_config

from llama_omni.checkpoint import random_model


@pytest.fixture
def native(tmp_path):
    """A native folder of several shards."""
    random_model(small_config()).save_pretrained(tmp_path / "native", max_shard_size="100KB")
    return tmp_path / "native"


@pytest.fixture
def source(tmp_path):
    """The golden model in the released layout, ours to damage."""
    folder = tmp_path / "source"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "whisper.pt", "tokenizer.json"):
        shutil.copyfile(OMNI / name, folder / name)
    return folder
