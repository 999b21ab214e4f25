"""Feed-forward layers: dense, and S5's mixture of experts without a router (AAAI 2026, MoE-MDF; papers: 1.4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Mlp(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x_BND: Tensor, task: int | None = None) -> Tensor:  # noqa: ARG002 (as the experts take it)
        out: Tensor = self.fc2(self.act(self.fc1(x_BND)))
        return out


class MoEMlp(nn.Module):
    """A feed-forward layer whose last outputs come from the expert of one data set; the data set chooses, no router.

    S5, MoE-MDF: ``concat(shared(h), expert_t(h))`` with ``h = GELU(fc1(x))``, as the released code has it (the paper
    writes ReLU). `fc2` gives the first ``width - part_features`` outputs, ``experts[t]`` the rest.

    Args:
        width: embedding width.
        hidden: hidden width.
        experts: number of data sets.
        part_features: outputs of an expert, 1..width - 1.

    Raises:
        ValueError: `experts` or `part_features` out of range; in `forward`, no data set or one that is not there.
    """

    def __init__(self, width: int, hidden: int, experts: int, part_features: int) -> None:
        super().__init__()
        if experts < 1:
            raise ValueError(f"moe: expected at least 1 expert, got {experts}")
        if not 0 < part_features < width:
            raise ValueError(
                f"moe: part_features must lie in 1..{width - 1}, below the width {width}, got {part_features}"
            )
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, width - part_features)
        self.experts = nn.ModuleList(nn.Linear(hidden, part_features) for _ in range(experts))

    def forward(self, x_BND: Tensor, task: int | None = None) -> Tensor:
        if task is None or not 0 <= task < len(self.experts):
            raise ValueError(f"moe: expected a data set in 0..{len(self.experts) - 1}, got {task}")
        hidden = self.act(self.fc1(x_BND))
        return torch.cat([self.fc2(hidden), self.experts[task](hidden)], dim=-1)


def split_dense(dense: dict[str, Tensor], prefix: str, experts: int, part_features: int) -> dict[str, Tensor]:
    """The tensors of a `MoEMlp` that equals a dense layer for every data set: each expert is a copy of the last rows.

    Args:
        dense: State dict that holds ``<prefix>fc2.weight`` [D, hidden] and ``<prefix>fc2.bias`` [D].
        prefix: of the layer, such as ``"blocks.3.mlp."``.

    Returns:
        ``<prefix>fc2.*`` and ``<prefix>experts.<t>.*``; `fc1` is the same in both.
    """
    split: dict[str, Tensor] = {}
    for kind in ("weight", "bias"):
        whole = dense[f"{prefix}fc2.{kind}"]
        split[f"{prefix}fc2.{kind}"] = whole[:-part_features].clone()
        for task in range(experts):
            split[f"{prefix}experts.{task}.{kind}"] = whole[-part_features:].clone()
    return split


def merge_expert(moe: dict[str, Tensor], prefix: str, task: int) -> dict[str, Tensor]:
    """The tensors of the dense layer that a `MoEMlp` is for one data set: ``<prefix>fc2.*``, shared rows first."""
    return {
        f"{prefix}fc2.{kind}": torch.cat([moe[f"{prefix}fc2.{kind}"], moe[f"{prefix}experts.{task}.{kind}"]])
        for kind in ("weight", "bias")
    }
