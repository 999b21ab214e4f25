"""The exponential moving average of a network: parameters and buffers, in one fused update."""

from __future__ import annotations

import copy


import torch
from torch import nn




class EMA:
    """Keeps `average`, a copy of a network in eval mode that follows it.

    The decay of step ``t`` is ``min(1 - 1 / (t + 1), decay)`` (SemiEarth, and mean teacher), so that the first steps
    forget the start quickly; `warm` skips this for a network that starts from trained weights.
    """

    def __init__(self, model: nn.Module, decay: float, *, warm: bool = False) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"ema_decay: expected a value in [0, 1), got {decay!r}")
        self.average = copy.deepcopy(model).requires_grad_(False).eval()
        self.decay = decay
        self.warm = warm

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move the average towards `model`; integer buffers (counters) are copied."""
        decay = self.decay if self.warm else min(1 - 1 / (step + 1), self.decay)
        source, target = model.state_dict(keep_vars=True), self.average.state_dict(keep_vars=True)
        floating = [name for name, value in source.items() if value.is_floating_point()]
        torch._foreach_lerp_([target[n].data for n in floating], [source[n].data for n in floating], 1 - decay)
        for name, value in source.items():
            if not value.is_floating_point():
                target[name].copy_(value)
