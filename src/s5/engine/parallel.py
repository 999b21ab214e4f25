"""A network trained by several processes: gradients that meet, batch statistics over all of them, sharded weights."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from timm.layers import BatchNormAct2d, convert_sync_batchnorm
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from s5.engine.compute import Compute
from s5.engine.group import Group

M = TypeVar("M", bound=nn.Module)

# Batch norms are pooled, so that buffers are alike already. PyTorch 2.15 has a new name for this.
_DDP_OPTIONS = inspect.signature(nn.parallel.DistributedDataParallel).parameters
_BUFFERS_STAY: dict[str, Any] = {
    "forward_sync_buffers" if "forward_sync_buffers" in _DDP_OPTIONS else "broadcast_buffers": False
}

_GATHERED_ALONE = 2**20  # parameters from which on a block is gathered when its turn comes, not with the whole


class PooledBatchNorm(nn.BatchNorm2d):
    """Batch norm over the pixels of all processes, on any device: PyTorch's own works on GPUs alone.

    Its weights and statistics, and their names, are those of the layer whose place it takes.
    """

    def __init__(self, other: nn.BatchNorm2d, group: Group) -> None:
        super().__init__(other.num_features, other.eps, other.momentum, other.affine, other.track_running_stats)
        self.group = group
        self.weight, self.bias = other.weight, other.bias
        self.running_mean, self.running_var = other.running_mean, other.running_var
        self.num_batches_tracked = other.num_batches_tracked
        self.after = nn.Sequential(other.drop, other.act) if isinstance(other, BatchNormAct2d) else nn.Identity()
        self.train(other.training)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        normal = self._normal(input) if self.training else super().forward(input)
        after: torch.Tensor = self.after(normal)
        return after

    def _normal(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x_BCHW.device.type, enabled=False):
            x = x_BCHW.float()
            count = self.group.pool(x.new_tensor(x.numel() / x.shape[1]))
            mean = self.group.pool(x.sum((0, 2, 3))) / count
            centred = x - mean[:, None, None]
            variance = self.group.pool(centred.square().sum((0, 2, 3))) / count
            self._remember(mean.detach(), variance.detach() * count / (count - 1).clamp(min=1))
            normal = centred * torch.rsqrt(variance + self.eps)[:, None, None]
            if self.affine:
                normal = normal * self.weight[:, None, None] + self.bias[:, None, None]
            return normal.to(x_BCHW.dtype)

    @torch.no_grad()
    def _remember(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        follow = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, follow)
        self.running_var.lerp_(variance, follow)


def pool_batch_norms(model: nn.Module, compute: Compute) -> None:
    """Let every batch norm of `model` see the batch of all processes; the names of its weights stay."""
    if compute.group.size == 1:
        return
    if compute.device.type == "cuda":
        convert_sync_batchnorm(model)
        return
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, PooledBatchNorm(child, compute.group))


def distribute(model: nn.Module, average: nn.Module, compute: Compute, *, in_parts: bool = False) -> nn.Module:
    """What the student's pass goes through so that gradients meet; FSDP2 shards `model` and `average` in place.

    Args:
        model: The network that learns, on its device.
        average: Its average, which is sharded alike.
        in_parts: A step may leave parameters without a gradient, and a pass uses some of them alone.
    """
    if compute.group.size == 1:
        return model
    if compute.is_sharded:
        for network in (model, average):
            for module in list(network.modules()):
                for block in module if isinstance(module, nn.ModuleList) else ():
                    if sum(parameter.numel() for parameter in block.parameters()) >= _GATHERED_ALONE:
                        fully_shard(block)
            fully_shard(network)
        return model
    ids = [compute.device.index] if compute.device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(model, device_ids=ids, find_unused_parameters=in_parts, **_BUFFERS_STAY)


@contextmanager
def gradients_meet(network: nn.Module, last: bool) -> Iterator[None]:
    """Around the passes of one part of a step: gradients of the processes meet once, in the `last` part."""
    if isinstance(network, nn.parallel.DistributedDataParallel):
        with nullcontext() if last else network.no_sync():
            yield
        return
    if isinstance(network, FSDPModule):
        network.set_requires_gradient_sync(last)
    yield


def gathered(state: Any) -> Any:
    """`state` with whole tensors in place of sharded ones; an operation of all processes where there are such."""
    if isinstance(state, DTensor):
        return state.full_tensor()
    if isinstance(state, Mapping):
        return {key: gathered(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(gathered(value) for value in state)
    return state


def load_whole(model: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """`load_state_dict` of whole tensors into a network that may be sharded."""
    own = model.state_dict()
    model.load_state_dict({name: _sharded_as(own.get(name), value) for name, value in state.items()})


def load_whole_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """`load_state_dict` of whole tensors into the optimiser of a network that may be sharded."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments = {
        index: {
            name: _sharded_as(parameters[int(index)], value) if _is_like(parameters[int(index)], value) else value
            for name, value in of_parameter.items()
        }
        for index, of_parameter in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": moments})


def _is_like(parameter: torch.Tensor, value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.shape == parameter.shape and value.ndim > 0


def _sharded_as(own: torch.Tensor | None, value: torch.Tensor) -> torch.Tensor:
    if not isinstance(own, DTensor):
        return value
    return distribute_tensor(value.to(own.device), own.device_mesh, own.placements)
