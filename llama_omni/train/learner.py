"""The model of a run on its device with its optimiser, whole or sharded; what of it is saved."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from llama_omni.errors import TrainingError
from llama_omni.train.muon import Muon
from llama_omni.train.processes import Processes, shard
from llama_omni.train.settings import TrainSettings
from llama_omni.train.task import Task


class Learner:
    """Prepares a task's model as the settings say; makes steps, saves and restores what learns."""

    def __init__(self, task: Task, settings: TrainSettings, processes: Processes) -> None:
        model = task.model
        self._settings, self._processes, self._model = settings, processes, model
        model.to(processes.device)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if not trained:
            raise TrainingError("the model must have parameters that learn, got none")
        for parameter in trained:
            parameter.data = parameter.data.float()  # what learns needs its small steps
        processes.spread([*trained, *model.buffers()])
        if settings.gradient_checkpointing:
            _checkpoint_activations(model)
        self.root = _Root(task)
        self.sharded = settings.sharding == "fsdp" and processes.world > 1
        if self.sharded:
            shard(model, self.root, bf16=settings.precision == "bf16")
        self.trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        if settings.optimizer == "muon":
            self._optimizer = Muon.of_layers(self.trained, settings)
            return
        matrices = [p for p in self.trained.values() if p.ndim > 1]
        others = [p for p in self.trained.values() if p.ndim <= 1]
        groups = [
            {"params": matrices, "weight_decay": settings.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self._optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=settings.learning_rate,
            betas=(settings.beta1, settings.beta2),
            fused=not self.sharded,
        )

    def train_mode(self) -> None:
        """Switch to training; what does not learn runs as it is in use."""
        self._model.train()
        for module in self._model.modules():
            parameters = list(module.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                module.eval()

    def backward(self, loss: Tensor) -> None:
        """Add a batch's gradients. FSDP2 takes their mean over processes; ours is a sum."""
        if loss.requires_grad:  # a batch without targets teaches nothing
            (loss * (self._processes.world if self.sharded else 1)).backward()

    def gradient_norm(self) -> float:
        """Add up the gradients over processes, clip them, and return their norm before."""
        parameters = list(self.trained.values())
        if not self.sharded:
            self._processes.sum_gradients(parameters)
        limit = self._settings.max_grad_norm or float("inf")
        norm: Any = nn.utils.clip_grad_norm_(parameters, limit)
        return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)

    def step(self, rate: float) -> None:
        """Change the weights by their gradients."""
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Any]:
        """Return this process's part of weights and optimiser, for `Checkpoints.save`."""
        return {
            "weights": {name: _local(parameter) for name, parameter in self.trained.items()},
            "optimizer": _local_state(self._optimizer.state_dict()),
            "sharded": self.sharded,
        }

    @torch.no_grad()
    def restore(self, weights: Mapping[str, Tensor], optimizer: dict[str, Any]) -> None:
        """Take what `state` gave.

        Raises:
            TrainingError: it is of another model.
        """
        found = {name: tuple(value.shape) for name, value in weights.items()}
        if found != {name: tuple(_local(value).shape) for name, value in self.trained.items()}:
            raise TrainingError("a checkpoint must hold what this run trains, got other parameters")
        for name, parameter in self.trained.items():
            _local(parameter).copy_(weights[name])
        state = _reshard(optimizer, self._optimizer) if self.sharded else optimizer
        self._optimizer.load_state_dict(state)


class _Root(nn.Module):
    """Makes a task's loss a forward pass, within which sharded parameters are whole."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.model = task.model
        self._task = [task]  # in a list: it is no module

    def forward(self, what: str, *arguments: Any) -> Any:
        return getattr(self._task[0], what)(*arguments)


def _checkpoint_activations(model: nn.Module) -> None:
    """Turn on gradient checkpointing, under the name that this Transformers has for it."""
    for name in ("activation_checkpointing_enable", "gradient_checkpointing_enable"):
        enable: Any = getattr(model, name, None)
        if enable is not None:
            enable({"use_reentrant": False})  # frozen parts come first
            return
    raise TrainingError("gradient_checkpointing must suit the model, got one without")


def _local(parameter: Any) -> Tensor:
    """Return this process's part of a parameter."""
    return getattr(parameter.detach(), "_local_tensor", parameter.detach())


def _local_state(state: dict[str, Any]) -> dict[str, Any]:
    parts = {
        index: {name: _local(v) if isinstance(v, Tensor) else v for name, v in values.items()}
        for index, values in state["state"].items()
    }
    return {"state": parts, "param_groups": state["param_groups"]}


def _reshard(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Give an optimiser's local moments the sharding of their parameters again."""
    from torch.distributed.tensor import DTensor

    parameters: list[Any] = [p for group in optimizer.param_groups for p in group["params"]]
    for index, values in state["state"].items():
        like = parameters[index]
        for name in ("exp_avg", "exp_avg_sq"):
            values[name] = DTensor.from_local(
                values[name].to(like.device),
                like.device_mesh,
                like.placements,
                run_check=False,
                shape=like.shape,
                stride=like.stride(),
            )
    return state
