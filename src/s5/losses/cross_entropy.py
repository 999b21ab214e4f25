"""Cross entropy that is zero, not NaN, where there is nothing to learn from."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from s5.losses.pooling import Pool, alone


def cross_entropy(
    logits_BKHW: Tensor,
    target_BHW: Tensor,
    *,
    ignore_index: int = 255,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    pool: Pool = alone,
) -> Tensor:
    """Mean cross entropy over the pixels that are not ignored, computed in float32.

    The same as `torch.nn.functional.cross_entropy`, except that a batch in which every pixel is ignored gives zero
    with a zero gradient.

    Args:
        logits_BKHW: floating point of any precision.
        target_BHW: class indices 0..K-1 or `ignore_index`, any integer type.
        ignore_index: value of the pixels that do not count.
        class_weights: float [K], or None for equal weights.
        label_smoothing: share of the probability spread over all classes, in [0, 1].
        pool: sums over the processes that share the batch.
    """
    target_BHW = target_BHW.long()
    # Full precision whatever autocast says: a log-softmax in bf16 has two digits.
    with torch.autocast(device_type=logits_BKHW.device.type, enabled=False):
        logits_BKHW = logits_BKHW.float()
        weights = None if class_weights is None else class_weights.to(logits_BKHW)
        total = F.cross_entropy(
            logits_BKHW,
            target_BHW,
            weight=weights,
            ignore_index=ignore_index,
            reduction="sum",
            label_smoothing=label_smoothing,
        )
        return mean_or_zero(total, _normaliser(target_BHW, ignore_index, weights), pool)


def _normaliser(target_BHW: Tensor, ignore_index: int, weights: Tensor | None) -> Tensor:
    valid_BHW = target_BHW != ignore_index
    if weights is None:
        return valid_BHW.sum()
    return (weights[target_BHW.clamp(0, len(weights) - 1)] * valid_BHW).sum()


def mean_or_zero(total: Tensor, count: Tensor, pool: Pool = alone) -> Tensor:
    """`total / count`, both pooled, and `total` itself (a sum over nothing, thus zero) where the count is zero.

    No device sync.
    """
    total, count = pool(torch.stack([total, count.to(total)])).unbind()
    return total / torch.where(count > 0, count, torch.ones_like(count))
