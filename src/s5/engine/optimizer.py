"""AdamW without decay on norms, biases and position embeddings, and the learning rate of a step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with linear warm-up and a cosine to zero.

    Args:
        lr: Peak learning rate of the encoder.
        head_lr_scale: Factor on `lr` for decoder and classifier.
        weight_decay: Decay of weights with two or more dimensions.
        warmup: Share of the steps over which the rate rises, in [0, 1).
        clip_norm: Largest norm of the gradient; 0 does not clip.
    """

    lr: float = 5e-4
    head_lr_scale: float = 1.0
    weight_decay: float = 0.01
    warmup: float = 0.02
    clip_norm: float = 0.0

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise ValueError(f"optimizer.lr: expected a positive learning rate, got {self.lr!r}")
        if not self.head_lr_scale > 0:
            raise ValueError(f"optimizer.head_lr_scale: expected a positive factor, got {self.head_lr_scale!r}")
        if self.weight_decay < 0 or self.clip_norm < 0:
            raise ValueError(
                "optimizer: weight_decay and clip_norm must not be negative, "
                f"got {self.weight_decay!r} and {self.clip_norm!r}"
            )
        if not 0 <= self.warmup < 1:
            raise ValueError(f"optimizer.warmup: expected a share of the steps in [0, 1), got {self.warmup!r}")


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over four groups: encoder or not, decayed or not. The peak rate of each stands in ``group["peak_lr"]``."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decayed = parameter.ndim > 1 and not name.endswith(("pos_embed", "cls_token"))
            groups.setdefault((name.startswith("encoder."), decayed), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "peak_lr": config.lr * (1.0 if encoder else config.head_lr_scale),
                "weight_decay": config.weight_decay if decayed else 0.0,
            }
            for (encoder, decayed), parameters in groups.items()
        ],
        lr=config.lr,
        fused=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, config: OptimizerConfig, step: int, steps: int) -> float:
    """Set each group's rate for `step` of `steps`; returns the encoder's peak rate times the factor of the step."""
    warmup = config.warmup * steps
    if step < warmup:
        factor = (step + 1) / (warmup + 1)
    else:
        factor = 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1.0, steps - warmup)))
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
    return config.lr * factor
