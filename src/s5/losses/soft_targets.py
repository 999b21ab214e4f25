"""The distance of the student's probabilities from the teacher's."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from s5.losses.cross_entropy import mean_or_zero
from s5.losses.pooling import Pool, alone

DISTANCES = ("mse", "kl")


def soft_target_loss(
    logits_BKHW: Tensor,
    target_BKHW: Tensor,
    *,
    distance: str = "mse",
    valid_BHW: Tensor | None = None,
    weight_BHW: Tensor | None = None,
    pool: Pool = alone,
) -> Tensor:
    """Mean teacher's consistency cost J (Tarvainen & Valpola, NeurIPS 2017, eq. 1), in float32.

    The mean over the valid pixels of sum_k (p_k - q_k)^2 / K for ``"mse"``, as released, or of
    sum_k q_k log(q_k / p_k) for ``"kl"``; p are the student's probabilities and q the teacher's. Zero, with a zero
    gradient, where no pixel is valid.

    Args:
        logits_BKHW: the student's logits on the strong view.
        target_BKHW: the teacher's probabilities on the same grid, which get no gradient.
        distance: ``"mse"`` or ``"kl"``.
        valid_BHW: bool, False where padding or nodata; None where all pixels are valid.
        weight_BHW: a factor for each pixel's loss, not in the denominator; None for 1.
        pool: sums over the processes that share the batch.

    Raises:
        ValueError: there is no such distance.
    """
    if distance not in DISTANCES:
        raise ValueError(f"distance: expected one of {DISTANCES}, got {distance!r}")
    with torch.autocast(device_type=logits_BKHW.device.type, enabled=False):
        logits_BKHW, target_BKHW = logits_BKHW.float(), target_BKHW.detach().float()
        if distance == "mse":
            loss_BHW = (logits_BKHW.softmax(1) - target_BKHW).square().mean(1)
        else:
            loss_BHW = F.kl_div(logits_BKHW.log_softmax(1), target_BKHW, reduction="none").sum(1)
        if weight_BHW is not None:
            loss_BHW = loss_BHW * weight_BHW.to(loss_BHW)
        valid_BHW = torch.ones_like(loss_BHW) if valid_BHW is None else valid_BHW
        return mean_or_zero((loss_BHW * valid_BHW).sum(), valid_BHW.sum(), pool)
