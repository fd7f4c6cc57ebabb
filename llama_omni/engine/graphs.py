"""CUDA graphs of the step, one for each bucket of batch and cache length.

At batch 1 a step of an 8B model is several hundred small kernels: launching them from Python takes
longer than running them. A graph is captured the first time its key is met (or by
`Stepper.warm_up`) and replayed after that, on static copies of its inputs. Off CUDA the same
bucketed computation runs eagerly, so that its arithmetic is tested everywhere.
"""

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

MAX_GRAPHS = 64  # oldest are dropped beyond this


def bucket(length: int, *, least: int = 64) -> int:
    """Round a length up to a power of two, at least `least`."""
    size = least
    while size < length:
        size *= 2
    return size


class StepGraphs:
    """Captured steps by key.

    Args:
        device: where steps run.
        capture: capture on CUDA; False runs the bucketed computation eagerly.
    """

    def __init__(self, device: torch.device, *, capture: bool) -> None:
        self._device, self._capture = device, capture
        self._graphs: dict[Hashable, tuple[Any, tuple[Tensor, ...], Tensor]] = {}
        self._version: Hashable = None
        self._pool: Any = None  # one memory pool for all graphs: they never run side by side

    def run(
        self,
        key: Hashable,
        compute: Callable[..., Tensor],
        *inputs: Tensor,
        version: Hashable = None,
    ) -> Tensor:
        """Run `compute(*inputs)` through the graph of `key`.

        Args:
            key: what the captured kernels depend on besides the inputs' values: shapes, buckets.
            version: of the storage whose addresses they hold; a new one drops every graph.
            compute: touches nothing but its inputs, the weights and the caches; no host reads.
            inputs: tensors whose values change from step to step.

        Returns:
            The result; overwritten by the next run of the same key.
        """
        if not self._capture:
            return compute(*inputs)
        if version != self._version:
            self._graphs.clear()
            self._version = version
        if key not in self._graphs:
            self._graphs[key] = self._captured(compute, inputs)
            if len(self._graphs) > MAX_GRAPHS:
                self._graphs.pop(next(iter(self._graphs)))
        graph, static_inputs, output = self._graphs[key]
        for static, new in zip(static_inputs, inputs, strict=True):
            static.copy_(new, non_blocking=True)
        graph.replay()
        return output

    def _captured(
        self, compute: Callable[..., Tensor], inputs: tuple[Tensor, ...]
    ) -> tuple[Any, tuple[Tensor, ...], Tensor]:
        with torch.cuda.device(self._device):  # capture and streams follow the current device
            return self._capture_here(compute, tuple(tensor.clone() for tensor in inputs))

    def _capture_here(
        self, compute: Callable[..., Tensor], static: tuple[Tensor, ...]
    ) -> tuple[Any, tuple[Tensor, ...], Tensor]:
        side = torch.cuda.Stream(self._device)
        side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(side):
            for _ in range(2):  # libraries allocate their workspaces outside the capture
                compute(*static)
        torch.cuda.current_stream(self._device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            output = compute(*static)
        self._pool = self._pool or graph.pool()
        return graph, static, output
