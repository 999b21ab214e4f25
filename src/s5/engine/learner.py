"""A network that learns: the network, its optimiser and its average, as every method here needs them."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import torch
from torch import nn

from s5.engine.ema import EMA
from s5.engine.optimizer import OptimizerConfig, build_optimizer, set_learning_rate

M = TypeVar("M", bound=nn.Module)


class Learner(Generic[M]):
    """Network, AdamW and EMA, moved together once a step.

    Args:
        steps: Length of the learning-rate schedule.
        warm: The network starts from trained weights.
    """

    def __init__(self, model: M, config: OptimizerConfig, *, steps: int, ema_decay: float, warm: bool) -> None:
        self.model, self.config, self.steps = model, config, steps
        self.optimizer = build_optimizer(model, config)
        self.ema = EMA(model, ema_decay, warm=warm)

    def learn(self, loss: torch.Tensor, step: int) -> torch.Tensor:
        """Backward pass, optimiser step and EMA; returns the learning rate as a scalar."""
        lr = set_learning_rate(self.optimizer, self.config, step, self.steps)
        loss.backward()
        if self.config.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.model, step)
        return torch.tensor(lr)

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.ema.average.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
