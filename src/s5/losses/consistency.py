"""The loss on unlabelled pixels: the student must predict the teacher's confident pseudo-labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from s5.losses.cross_entropy import mean_or_zero
from s5.losses.pooling import Pool, alone


def confident_pixels(
    pseudo_BHW: Tensor,
    confidence_BHW: Tensor,
    threshold: float | Tensor,
    *,
    valid_BHW: Tensor | None = None,
    ignore_index: int = 255,
) -> Tensor:
    """Which pixels a pseudo-label is trusted on: valid, and confidence at or over the threshold. Bool [B, H, W].

    Args:
        pseudo_BHW: class indices 0..K-1 or `ignore_index`.
        confidence_BHW: the teacher's probability of its pseudo-label, in [0, 1].
        threshold: tau in (0, 1], or float [K] with one tau a class.
        valid_BHW: bool, False where padding or nodata; None where all pixels are valid.
        ignore_index: pseudo-label of pixels that do not count.
    """
    if isinstance(threshold, Tensor):
        threshold = threshold.to(confidence_BHW)[pseudo_BHW.long().clamp(0, len(threshold) - 1)]
    return (confidence_BHW >= threshold) & _valid(pseudo_BHW, valid_BHW, ignore_index)


def consistency_loss(
    logits_BKHW: Tensor,
    pseudo_BHW: Tensor,
    confidence_BHW: Tensor,
    *,
    threshold: float | Tensor,
    valid_BHW: Tensor | None = None,
    weight_BHW: Tensor | None = None,
    ignore_index: int = 255,
    pool: Pool = alone,
) -> Tensor:
    """FixMatch's unlabelled loss (Sohn et al., NeurIPS 2020) as S5 normalises it, in float32.

    sum(CE * weight * [confidence >= tau and valid]) / number of valid pixels of the batch: the denominator counts all
    valid pixels, so that an unsure teacher makes the loss small. Zero, with a zero gradient, where none is valid.

    Args:
        logits_BKHW: the student's logits on the strong view.
        pseudo_BHW: the teacher's classes 0..K-1, or `ignore_index`, on the same grid.
        confidence_BHW: the teacher's probability of them, in [0, 1].
        threshold: tau in (0, 1], or float [K] with one tau a class.
        valid_BHW: bool, False where padding or nodata; None where all pixels are valid.
        weight_BHW: a factor for each pixel's loss, not in the denominator; None for 1.
        ignore_index: pseudo-label of pixels that do not count.
        pool: sums over the processes that share the batch.
    """
    trusted_BHW = confident_pixels(
        pseudo_BHW, confidence_BHW, threshold, valid_BHW=valid_BHW, ignore_index=ignore_index
    )
    count = _valid(pseudo_BHW, valid_BHW, ignore_index).sum()
    target_BHW = pseudo_BHW.long().masked_fill(~trusted_BHW, ignore_index)
    with torch.autocast(device_type=logits_BKHW.device.type, enabled=False):
        logits_BKHW = logits_BKHW.float()
        if weight_BHW is None:
            total = F.cross_entropy(logits_BKHW, target_BHW, ignore_index=ignore_index, reduction="sum")
        else:
            loss_BHW = F.cross_entropy(logits_BKHW, target_BHW, ignore_index=ignore_index, reduction="none")
            total = (loss_BHW * weight_BHW.to(loss_BHW)).sum()
        return mean_or_zero(total, count, pool)


def _valid(pseudo_BHW: Tensor, valid_BHW: Tensor | None, ignore_index: int) -> Tensor:
    labelled_BHW = pseudo_BHW != ignore_index
    return labelled_BHW if valid_BHW is None else labelled_BHW & valid_BHW
