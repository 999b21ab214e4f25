"""AdamW without decay on norms, biases and position embeddings, and the learning rate of a step."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from s5.models.depth import layer_depths

# No weights, whatever their shape: biases, position embeddings and tables, tokens, and factors on channels, heads or
# residuals, by the names that S5's and timm's networks give them; and the networks that make relative positions.
_UNDECAYED = re.compile(
    r"(bias|pos|_rel$|token|latent|freqs|gamma|beta|alpha|gain|scale|temperature)[^.]*$|\b(cpb_mlp|rel_pos)\."
)


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with linear warm-up and a cosine to zero.

    Args:
        lr: Peak learning rate of the encoder.
        head_lr_scale: Factor on `lr` for neck, decoder and classifier.
        layer_decay: Factor on the rate from one layer of the encoder to the one before it, in (0, 1]; 1 trains all
            layers alike.
        weight_decay: Decay of the weights of linear layers and convolutions.
        warmup: Share of the steps over which the rate rises, in [0, 1).
        clip_norm: Largest norm of the gradient; 0 does not clip.
    """

    lr: float = 5e-4
    head_lr_scale: float = 1.0
    weight_decay: float = 0.01
    warmup: float = 0.02
    clip_norm: float = 0.0
    layer_decay: float = 1.0

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
        if not 0 < self.layer_decay <= 1:
            raise ValueError(
                f"optimizer.layer_decay: expected a factor in (0, 1], got {self.layer_decay!r}; "
                "1 trains all layers alike"
            )


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over the parameters that are trained, a group for each rate and decay among them.

    Layer ``l`` of the encoder's ``L`` learns at ``lr * layer_decay ** (L + 1 - l)``, stem and embeddings being layer 0
    (BEiT, Bao et al., ICLR 2022; MAE, He et al., CVPR 2022); what follows the encoder at ``lr * head_lr_scale``. Norms,
    biases, position embeddings and tables, tokens and layer scales are not decayed. The peak rate of a group stands in
    ``group["peak_lr"]``.

    Raises:
        ValueError: `layer_decay` is below 1 and the network does not tell what its layers are.
    """
    depths, last = layer_depths(model) if config.layer_decay < 1 else ({}, 0)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            scale = 1.0 if "encoder" in name.split(".") else config.head_lr_scale
            if name in depths:
                scale *= config.layer_decay ** (last + 1 - depths[name])
            decay = config.weight_decay if is_decayed(name, parameter) else 0.0
            groups.setdefault((config.lr * scale, decay), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "peak_lr": peak_lr, "weight_decay": decay}
            for (peak_lr, decay), parameters in groups.items()
        ],
        lr=config.lr,
        fused=not any(isinstance(parameter, DTensor) for parameter in model.parameters()),
    )


def is_decayed(name: str, parameter: torch.Tensor) -> bool:
    """Whether weight decay pulls at a parameter: at matrices and kernels that are no position, token or scale."""
    return parameter.ndim > 1 and _UNDECAYED.search(name) is None


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
