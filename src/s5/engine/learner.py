"""A network that learns: the network, its optimiser and its average, as every method here needs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from s5.engine.compute import Compute
from s5.engine.ema import EMA
from s5.engine.optimizer import OptimizerConfig, build_optimizer, set_learning_rate
from s5.engine.parallel import (
    distribute,
    gathered,
    gradients_meet,
    load_whole,
    load_whole_optimizer,
    pool_batch_norms,
)

M = TypeVar("M", bound=nn.Module)


class Learner(Generic[M]):
    """Network, AdamW and EMA, moved together once a step.

    Args:
        steps: Length of the learning-rate schedule.
        warm: The network starts from trained weights.
        compute: Precision, and the processes that train together.
        in_parts: A step may leave parameters without a gradient (they, and their averages, stay as they are), and a
            pass uses some of them alone; for DDP, which must be told.

    Attributes:
        model: The network itself.
        network: What the training passes go through: the network, so that gradients of all processes meet.
    """

    def __init__(
        self,
        model: M,
        config: OptimizerConfig,
        *,
        steps: int,
        ema_decay: float,
        warm: bool,
        compute: Compute,
        in_parts: bool = False,
    ) -> None:
        self.model, self.config, self.steps = model, config, steps
        pool_batch_norms(model, compute)
        self.ema = EMA(model, ema_decay, warm=warm)
        self.network = distribute(model, self.ema.average, compute, in_parts=in_parts)
        self.optimizer = build_optimizer(model, config)
        self._scaler = torch.amp.GradScaler(compute.device.type, enabled=compute.precision == "fp16")
        if compute.compile:
            model.compile()

    def part(self, last: bool) -> AbstractContextManager[None]:
        """Around the passes of one part of a step; gradients are exchanged in the last one."""
        return gradients_meet(self.network, last)

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of `loss` to those of the step."""
        self._scaler.scale(loss).backward()

    def learn(
        self, step: int, parts: Sequence[range], measure: Callable[[range], Mapping[str, torch.Tensor]]
    ) -> dict[str, torch.Tensor]:
        """One step over a batch that is computed in parts.

        Args:
            parts: Places of the images of each part (`BatchPlaces.parts`).
            measure: Scalars of the images at these places; "loss" is what is descended.

        Returns:
            Their means over the parts, and "lr", the learning rate.
        """
        rows: list[dict[str, torch.Tensor]] = []
        for part in parts:
            with self.part(last=part is parts[-1]):
                row = measure(part)
                self.backward(row["loss"] / len(parts))
            rows.append({name: value.detach() for name, value in row.items()})
        means = {name: torch.stack([row[name] for row in rows]).mean() for name in rows[0]}
        return {**means, "lr": self.update(step)}

    def update(self, step: int) -> torch.Tensor:
        """Optimiser step and EMA; returns the learning rate as a scalar."""
        lr = set_learning_rate(self.optimizer, self.config, step, self.steps)
        if self.config.clip_norm:
            self._scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.model, step)
        return torch.tensor(lr)

    def state_dict(self) -> dict[str, Any]:
        """Whole tensors, whatever the number of processes: an operation of all of them."""
        state: dict[str, Any] = gathered(
            {
                "model": self.model.state_dict(),
                "ema": self.ema.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self._scaler.state_dict(),
            }
        )
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        load_whole(self.model, state["model"])
        load_whole(self.ema.average, state["ema"])
        load_whole_optimizer(self.optimizer, state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])


class OneLearner(Generic[M]):
    """What a `s5.engine.Method` with one learner shares with others: it remembers what its learner does, and has
    nothing to warn of."""

    learner: Learner[M]

    def on_log(self, rows: list[dict[str, float]]) -> None:
        """Nothing to warn of."""

    def state_dict(self) -> dict[str, Any]:
        return self.learner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.learner.load_state_dict(state)
