"""The exponential moving average of a network: parameters and buffers, in one fused update."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Generic, TypeVar

import torch
from torch import nn
from torch.distributed.tensor import DTensor

M = TypeVar("M", bound=nn.Module)


class EMA(Generic[M]):
    """Keeps `average`, a copy of a network in eval mode that follows it.

    The decay of step ``t`` is ``min(1 - 1 / (t + 1), decay)`` (mean teacher, and SemiEarth), so that the first steps
    forget the start quickly; `warm` skips this for a network that starts from trained weights.

    Args:
        decay: In [0, 1).
    """

    def __init__(self, model: M, decay: float, *, warm: bool = False) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"ema_decay: expected a value in [0, 1), got {decay!r}")
        self.average: M = copy.deepcopy(model).requires_grad_(False).eval()
        self.decay = decay
        self.warm = warm

    @torch.no_grad()
    def update(self, model: M, step: int) -> None:
        """Move the average towards `model`; integer buffers (counters) are copied."""
        decay = self.decay if self.warm else min(1 - 1 / (step + 1), self.decay)
        source, target = _local(model.state_dict()), _local(self.average.state_dict())
        floating = [name for name, value in source.items() if value.is_floating_point()]
        torch._foreach_lerp_([target[name] for name in floating], [source[name] for name in floating], 1 - decay)
        for name in source.keys() - set(floating):
            target[name].copy_(source[name])


def _local(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Of sharded tensors the part that lies here: network and average are sharded alike."""
    return {name: value.to_local() if isinstance(value, DTensor) else value for name, value in state.items()}
