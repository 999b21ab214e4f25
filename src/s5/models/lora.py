"""Low-rank adapters on the attention of an encoder (LoRA: Hu et al., ICLR 2022)."""

from __future__ import annotations

import math
import re

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s5.models.encoders import Encoder

_TARGETS = ("qkv", "proj")


class LoRALinear(nn.Module):
    """``h = W x + (alpha / rank) B A x`` with W as it was (Hu et al., eq. 3); B starts at zero, so h starts as W x.

    Args:
        base: the linear layer W; it is kept, not copied, and frozen.
        rank: rows of A, the paper's r.
        alpha: the update counts alpha / rank times.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.scale = alpha / rank
        self.lora_a = nn.Parameter(base.weight.new_empty(rank, base.in_features))
        self.lora_b = nn.Parameter(base.weight.new_zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))  # as the authors' loralib

    @property
    def weight(self) -> Tensor:
        """W + (alpha / rank) B A, for networks that read the matrix themselves (BEiT, Swin V2)."""
        merged: Tensor = self.base.weight + self.scale * (self.lora_b @ self.lora_a)
        return merged

    @property
    def bias(self) -> Tensor | None:
        bias: Tensor | None = self.base.bias
        return bias

    @property
    def in_features(self) -> int:
        return self.base.in_features

    @property
    def out_features(self) -> int:
        return self.base.out_features

    def forward(self, x: Tensor) -> Tensor:
        update = F.linear(F.linear(x, self.lora_a), self.lora_b)
        out: Tensor = self.base(x) + self.scale * update
        return out


def add_lora(encoder: Encoder, rank: int, alpha: float) -> int:
    """Put adapters on the qkv and proj layers of an encoder's attention; the rest of it is left as it is.

    Args:
        encoder: a transformer whose attention has linear layers `qkv` and `proj`: S5's, timm's ViT, DeiT, BEiT, Swin.
        rank: at least 1.
        alpha: positive.

    Returns:
        The number of adapted layers.

    Raises:
        ValueError: the encoder has no such attention.
    """
    attentions = [
        module
        for module in encoder.modules()
        if all(isinstance(getattr(module, target, None), nn.Linear) for target in _TARGETS)
    ]
    if not attentions:
        raise ValueError(
            f"lora: encoder {encoder.name!r} has no attention with linear layers 'qkv' and 'proj' to adapt; take one "
            "of S5's encoders (s5_vit_b) or timm's ViT, DeiT, BEiT or Swin (vit_tiny_patch16_224, "
            "swin_tiny_patch4_window7_224), or train with tune.what 'all' or 'decoder'"
        )
    for attention in attentions:
        for target in _TARGETS:
            setattr(attention, target, LoRALinear(attention.get_submodule(target), rank, alpha))  # type: ignore[arg-type]
    return len(attentions) * len(_TARGETS)


@torch.no_grad()
def merge_lora(model: nn.Module) -> None:
    """Fold a network's adapters into its weights, in place: it is the plain network again, and so are its keys.

    Nothing happens to a network without adapters.
    """
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LoRALinear):
                child.base.weight.copy_(child.weight)
                setattr(parent, name, child.base)


def name_without_lora(name: str) -> str:
    """The parameter of the plain network that a parameter belongs to: an adapter's is the weight that it adapts."""
    return re.sub(r"\.(lora_[ab]|base\.(weight|bias))$", lambda m: f".{m[2] or 'weight'}", name)
