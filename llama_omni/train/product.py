"""A finished model on disk: the native folder that `llama_omni.load` reads."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from llama_omni.checkpoint.native import quiet_transformers
from llama_omni.model.omni import OmniModel
from llama_omni.model.tokenizer import TextTokenizer
from llama_omni.train.lora import merged_state
from llama_omni.train.processes import full_state, is_main


@dataclass(frozen=True, kw_only=True, slots=True)
class Product:
    """What goes into the folder beside the weights."""

    tokenizer: TextTokenizer
    recipe: Mapping[str, Any] = field(default_factory=dict)  # the resolved configuration
    base: Path | None = None  # the model it began as: its centres are taken over, and its vocoder
    vocoder: Path | None = None  # another vocoder's folder
    dtype: torch.dtype | None = None  # of the weights written; None: as trained

    def write(self, model: OmniModel, folder: Path) -> None:
        """Write the model; on all processes where it is sharded, else on rank 0."""
        state = full_state(model)
        if not is_main():
            return
        state = merged_state(model, state)
        if self.dtype is not None:
            state = {name: value.to(self.dtype) for name, value in state.items()}
        before = model.config.dtype
        model.config.dtype = self.dtype or next(iter(state.values())).dtype
        with quiet_transformers():
            model.save_pretrained(folder, state_dict=state)
        model.config.dtype = before
        self.tokenizer.inner.save_pretrained(folder)
        text = json.dumps(dict(self.recipe), indent=1, default=str) + "\n"
        (folder / "recipe.json").write_text(text, encoding="utf-8")
        for place, name in ((self.vocoder, ""), (self.base, "vocoder")):
            if place is not None and (place / name).is_dir() and not (folder / "vocoder").exists():
                shutil.copytree(place / name, folder / "vocoder")
        for name in ("kmeans.npy", "features.json"):  # the units' centres, and of which features
            if self.base is not None and (self.base / name).is_file():
                shutil.copyfile(self.base / name, folder / name)
