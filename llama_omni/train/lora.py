"""LoRA on the LLM, in place; the finished product holds plain, merged weights."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from llama_omni.errors import ConfigError, MissingExtraError

_NAME = "default"  # peft's own name of the first adapter


def add_lora(
    llm: nn.Module, *, rank: int, alpha: float, dropout: float, targets: Sequence[str]
) -> None:
    """Add low-rank updates to the LLM's projections; only they learn from here on.

    Raises:
        ConfigError: the LLM has none of these projections.
        MissingExtraError: peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise MissingExtraError("peft", "train", "training with LoRA") from error
    leaves = {name.rpartition(".")[2] for name, _ in llm.named_modules()}
    if not targets or not leaves >= set(targets):
        raise ConfigError(
            f"lora_targets must name layers of the LLM, got {', '.join(targets)}; it has "
            f"{', '.join(sorted(leaf for leaf in leaves if leaf.endswith(('proj', 'fc'))))}"
        )
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # pyright: ignore[reportArgumentType]  # a float serves as well
        lora_dropout=dropout,
        target_modules=list(targets),
    )
    inject_adapter_in_model(config, llm)
    for name, layer in lora_layers(llm).items():
        if _NAME not in layer.lora_A:
            raise ConfigError(f"lora_targets must name linear layers of the LLM, got {name}")


def lora_layers(model: nn.Module) -> dict[str, Any]:
    """Return the layers with a low-rank update, by name."""
    return {n: m for n, m in model.named_modules() if hasattr(m, "get_delta_weight")}


def enable_lora(model: nn.Module, enabled: bool) -> None:
    """Switch all low-rank updates on or off; off, the LLM is what it was before."""
    for layer in lora_layers(model).values():
        layer._disable_adapters = not enabled  # its method also changes requires_grad


@torch.no_grad()
def merged_state(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a model's weights with the updates added in, under the names without LoRA.

    Args:
        model: With the layers that have an update.
        state: All its weights. The updates are computed from these, not from the model, whose
            parameters may be sharded over processes that are not all here.
    """
    merged = dict(state)
    for name, layer in lora_layers(model).items():
        down, up = (state[f"{name}.lora_{part}.{_NAME}.weight"].float() for part in "AB")
        delta = layer.scaling[_NAME] * (up @ down)
        delta = delta.T if layer.fan_in_fan_out else delta
        weight = merged.pop(f"{name}.base_layer.weight")
        merged[f"{name}.weight"] = (weight.float() + delta.to(weight.device).float()).to(weight)
        if f"{name}.base_layer.bias" in merged:
            merged[f"{name}.bias"] = merged.pop(f"{name}.base_layer.bias")
    return {name: value for name, value in merged.items() if ".lora_" not in name}
