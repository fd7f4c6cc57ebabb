"""The processes of a run: who is rank 0, what is summed over all, and sharded parameters.

Gradients of replicated parameters are summed here, once for each optimiser step, instead of by
DDP's hooks: see ADR 0014. One process needs no torch.distributed at all.
"""

import atexit
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn

from llama_omni.errors import ConfigError, MissingExtraError, TrainingError
from llama_omni.model.device import find_device

# Rank 0 reads and writes alone at times, tens of gigabytes; NCCL's own ten minutes end a run then.
_PATIENCE = timedelta(hours=2)
_BUCKET = 1 << 24  # gradient elements summed in one call

# A thread of gloo lets go of the last collective's tensors a little after all have been told that
# it is done, and needs Python's lock for it. Where the interpreter ends before, that thread aborts
# the process, and torchrun calls a run that is done a failure; so it gets time while none holds it.
_PARTING_S = 0.3


@dataclass(frozen=True, kw_only=True, slots=True)
class Processes:
    """This process among those of the run; decided once, at set-up."""

    rank: int
    world: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which alone writes and shows anything."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Add up a tensor over all processes, in place."""
        if self.world > 1:
            distributed.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Whether something is so in any process."""
        return bool(self.sum(torch.tensor(float(flag), device=self.device)))

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, in the order of ranks."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        distributed.all_gather_object(values, value)
        return values

    def from_main(self, value: Any) -> Any:
        """Return rank 0's value."""
        return self.gather(value)[0]

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.world > 1:
            self.gather(None)

    def spread(self, tensors: Sequence[Tensor]) -> None:
        """Give all processes rank 0's weights."""
        if self.world > 1:
            for tensor in tensors:
                distributed.broadcast(tensor.detach(), 0)

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Add up the gradients of replicated parameters over all processes.

        A parameter that no process used keeps None, as it would in one process.
        """
        if self.world == 1:
            return
        used = torch.tensor([float(p.grad is not None) for p in parameters], device=self.device)
        distributed.all_reduce(used, distributed.ReduceOp.MAX)
        bucket: list[Tensor] = []
        size = 0
        for parameter, anywhere in zip(parameters, used.tolist(), strict=True):
            if not anywhere:
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            bucket.append(parameter.grad)
            size += parameter.numel()
            if size >= _BUCKET:
                _sum_bucket(bucket)
                bucket, size = [], 0
        _sum_bucket(bucket)


def set_up(device: str) -> Processes:
    """Join the run that `torchrun` or `accelerate launch` started, or be the only process.

    Raises:
        ConfigError: there is no such device, or it is one and the processes are several.
        MissingExtraError: several processes without accelerate.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    place = find_device(device)
    if world == 1:
        return Processes(rank=0, world=1, device=place)
    if place.type not in ("cpu", "cuda") or place.index is not None:
        raise ConfigError(
            f"device must be auto, cpu or cuda for {world} processes, got {device!r}; with cuda "
            "each process takes one of its own"
        )
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise MissingExtraError("accelerate", "train", "training in several processes") from error
    joined = distributed.is_initialized()
    # Starts torch.distributed: NCCL, or gloo without CUDA.
    state = PartialState(cpu=place.type == "cpu", timeout=_PATIENCE)
    if not joined and distributed.get_backend() == "gloo":
        atexit.register(time.sleep, _PARTING_S)
    return Processes(
        rank=state.process_index,
        world=state.num_processes,
        device=state.device or torch.device("cpu"),
    )


def is_main() -> bool:
    """Whether this process writes files, wherever in a run it is asked."""
    return os.environ.get("RANK", "0") == "0"


def shard(model: nn.Module, root: nn.Module, *, bf16: bool) -> None:
    """Shard what learns over all processes with FSDP2, layer by layer, then the rest with `root`.

    Modules without anything to learn that are no layers of a sharded stack stay whole.

    Raises:
        TrainingError: a parameter that learns is not sharded afterwards.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
    from torch.distributed.tensor import DTensor

    device = "cuda" if torch.cuda.is_available() and next(model.parameters()).is_cuda else "cpu"
    options: dict[str, Any] = {
        "mesh": init_device_mesh(device, (distributed.get_world_size(),)),
        "mp_policy": MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if bf16 else None,
            reduce_dtype=torch.float32,
            cast_forward_inputs=False,  # autocast does; counts of targets do not fit bfloat16
        ),
    }
    whole: set[nn.Parameter] = set()
    names = set(getattr(model, "_no_split_modules", None) or ())
    for child in model.children():
        if not any(parameter.requires_grad for parameter in child.parameters()):
            layers = [m for m in child.modules() if type(m).__name__ in names]
            if type(child).__name__ == "SpeechEncoder" or not layers:
                whole.update(child.parameters())
    for module in list(model.modules()):
        if type(module).__name__ in names and not whole & set(module.parameters()):
            fully_shard(module, **options)
    fully_shard(root, ignored_params=whole, **options)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not isinstance(parameter, DTensor):
            raise TrainingError(f"parameter {name} must be sharded, got a whole one")


def as_rank_zero(model: nn.Module, values: Tensor) -> Tensor:
    """Return rank 0's values where a model's weights are sharded, else the values as they are."""
    if not distributed.is_initialized():
        return values
    from torch.distributed.fsdp import FSDPModule

    if any(isinstance(module, FSDPModule) for module in model.modules()):
        distributed.broadcast(values, 0)
    return values


def full_state(model: nn.Module) -> dict[str, Any]:
    """Return all weights of a model, gathered from all processes where they are sharded.

    Every process must call this; where it is sharded, only rank 0 gets the weights.
    """
    from torch.distributed.tensor import DTensor

    # Not its parameters: those that were just used may still be whole.
    state = model.state_dict()
    if not any(isinstance(value, DTensor) for value in state.values()):
        return state
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return get_model_state_dict(model, options=options)


def to_device(value: Any, device: torch.device) -> Any:
    """Move the tensors of a batch."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {key: to_device(item, device) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(to_device(item, device) for item in value)
    return value


def _sum_bucket(gradients: list[Tensor]) -> None:
    if not gradients:
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    for gradient, summed in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(summed.view_as(gradient))
