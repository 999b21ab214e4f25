"""Soft Dice loss, for classes that cover few pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from s5.losses.pooling import Pool, alone


def dice_loss(
    logits_BKHW: Tensor, target_BHW: Tensor, *, ignore_index: int = 255, smooth: float = 1.0, pool: Pool = alone
) -> Tensor:
    """1 - (2 sum p y + smooth) / (sum p + sum y + smooth) over the batch, averaged over the classes in the truth.

    After Milletari et al. (V-Net, 3DV 2016). In float32; zero, with a zero gradient, where every pixel is ignored.

    Args:
        logits_BKHW: floating point of any precision.
        target_BHW: class indices 0..K-1 or `ignore_index`, any integer type.
        ignore_index: value of the pixels that do not count.
        smooth: added to both sides of the fraction, in pixels, at least 0.
        pool: sums over the processes that share the batch.
    """
    if smooth < 0:
        raise ValueError(f"smooth: expected at least 0, got {smooth}")
    num_classes = logits_BKHW.shape[1]
    valid_BHW = target_BHW != ignore_index
    with torch.autocast(device_type=logits_BKHW.device.type, enabled=False):
        prob_BKHW = logits_BKHW.float().softmax(dim=1) * valid_BHW.unsqueeze(1)
        # not one_hot, which reads the least class back from the device
        classes_K = torch.arange(num_classes, device=target_BHW.device)
        truth_BKHW = (target_BHW.unsqueeze(1) == classes_K[:, None, None]) & valid_BHW.unsqueeze(1)
        overlap_K = (prob_BKHW * truth_BKHW).sum(dim=(0, 2, 3))
        truth_K = truth_BKHW.sum(dim=(0, 2, 3)).to(overlap_K)
        size_K = prob_BKHW.sum(dim=(0, 2, 3)) + truth_K
        overlap_K, size_K, truth_K = pool(torch.stack([overlap_K, size_K, truth_K])).unbind()
        present_K = truth_K > 0
        # A class that is not present may have size zero: keep its fraction finite, its weight is zero anyway.
        loss_K = 1 - (2 * overlap_K + smooth) / torch.where(present_K, size_K + smooth, torch.ones_like(size_K))
        return (loss_K * present_K).sum() / present_K.sum().clamp_min(1)
