"""Naming code by a string, so that who starts a process need not import what runs in it."""

import importlib
from dataclasses import dataclass, field
from typing import Any

from llama_omni.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Factory:
    """A function and its arguments, picklable, imported where it is called.

    `Factory("llama_omni.loading:load_engine", {"preset": "tiny", "random_weights": True})` starts
    an engine in another process while this one never loads torch.
    """

    target: str  # "module:function"
    arguments: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.target.count(":") != 1 or not all(self.target.split(":")):
            raise ConfigError(f"target must be module:function, got {self.target!r}")

    def __call__(self, *more: Any) -> Any:
        """Call it, further arguments first."""
        module, name = self.target.split(":")
        return getattr(importlib.import_module(module), name)(*more, **self.arguments)
