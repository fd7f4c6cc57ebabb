"""Muon: momentum whose update is made orthogonal, for the matrices of small models.

Matrices of layers go by Muon, everything else (embeddings, heads, norms, biases, convolutions) by
AdamW, in one optimiser with one learning rate: a Muon update is scaled to the size that AdamW's
would have. Torch's own computes in bfloat16, which CPUs without it do forty times slower.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from llama_omni.train.settings import TrainSettings

_STEPS = ((3.4445, -4.7750, 2.0315),) * 5  # of the Newton-Schulz iteration


class Muon(torch.optim.Optimizer):
    """Muon for some parameters and AdamW for the others.

    Args:
        matrices: Parameters of two dimensions.
        others: All the rest.
        lr: Of both.
        weight_decay: Decoupled; of matrices only.
        momentum: Of matrices, Nesterov's.
        betas: Of AdamW.
        eps: Of AdamW.

    Source:
        Jordan et al. 2024 (Muon); the scale 0.2 sqrt(max(rows, columns)) from Liu et al. 2025.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        others: Iterable[nn.Parameter],
        *,
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
    ) -> None:
        groups = [
            {"params": list(matrices), "muon": True, "weight_decay": weight_decay},
            {"params": list(others), "muon": False, "weight_decay": 0.0},
        ]
        defaults = {"lr": lr, "momentum": momentum, "betas": betas, "eps": eps}
        super().__init__([group for group in groups if group["params"]], defaults)

    @classmethod
    def of_layers(cls, trained: Mapping[str, nn.Parameter], settings: TrainSettings) -> "Muon":
        """Divide a model's parameters by name: matrices of numbered layers, and the others."""
        names = {n for n, p in trained.items() if p.ndim == 2 and re.search(r"\.\d+\.", n)}
        return cls(
            [parameter for name, parameter in trained.items() if name in names],
            [parameter for name, parameter in trained.items() if name not in names],
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            betas=(settings.beta1, settings.beta2),
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore
        """Make one step."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            learning = [p for p in group["params"] if p.grad is not None]
            (self._muon if group["muon"] else self._adamw)(learning, group)
        return loss

    def _muon(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        shapes = defaultdict(list)  # one iteration for all matrices of a shape
        for parameter in parameters:
            shapes[parameter.shape].append(parameter)
        for (rows, columns), alike in shapes.items():
            updates = []
            for parameter in alike:
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                updates.append(parameter.grad.lerp(state["momentum"], group["momentum"]))
            scale = 0.2 * max(rows, columns) ** 0.5 * group["lr"]
            for parameter, update in zip(alike, orthogonal(torch.stack(updates)), strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-scale)

    def _adamw(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros(())
                state["mean"] = torch.zeros_like(parameter)
                state["square"] = torch.zeros_like(parameter)
            state["step"] += 1
            state["mean"].lerp_(parameter.grad, 1 - beta1)
            state["square"].mul_(beta2).addcmul_(parameter.grad, parameter.grad, value=1 - beta2)
            step = int(state["step"])
            root = (state["square"] / (1 - beta2**step)).sqrt_().add_(group["eps"])
            rate = group["lr"] / (1 - beta1**step)
            parameter.addcdiv_(state["mean"], root, value=-rate)


def orthogonal(matrices: Float[Tensor, "G R C"]) -> Float[Tensor, "G R C"]:
    """Bring all singular values near one, with five steps of Newton-Schulz."""
    flat = matrices.shape[1] > matrices.shape[2]
    X = matrices.mT if flat else matrices
    X = X / (X.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for a, b, c in _STEPS:
        A = X @ X.mT  # (G, R, R)
        X = torch.baddbmm(X, torch.baddbmm(A, A, A, beta=b, alpha=c), X, beta=a)
    return X.mT if flat else X
