"""CromSS's terms between two sensors of one place: whom to believe, and consistency (TGRS 2025, arXiv 2405.01217).

Every function takes the two sensors in one order and gives back in that order.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from s5.losses import Pool, alone
from s5.losses.cross_entropy import mean_or_zero
from s5.noisy.losses import label_confidence, weights_of_labels

Pair = tuple[Tensor, Tensor]


def entangled(confidence: Pair) -> Pair:
    """``(c_m + c_1 c_2) / 2`` of confidences in [0, 1]: one that the other sensor does not share at all is halved."""
    both = confidence[0] * confidence[1]
    return (confidence[0] + both) / 2, (confidence[1] + both) / 2


@torch.no_grad()
def prediction_confidence(logits_BKHW: Tensor) -> Tensor:
    """``1 - H(p) / log K`` of the softmax p, float32 [B, H, W] in [0, 1] without a gradient."""
    entropy_BHW: Tensor = torch.special.entr(logits_BKHW.float().softmax(dim=1)).sum(dim=1)
    return (1 - entropy_BHW / math.log(logits_BKHW.shape[1])).clamp(0, 1)


def cross_modal_label_weights(logits: Pair, target_BHW: Tensor, share: float, *, ignore_index: int = 255) -> Pair:
    """How much each label counts for each sensor: `weights_of_labels` by the entangled label confidences."""
    one, other = entangled(
        (
            label_confidence(logits[0], target_BHW, ignore_index=ignore_index),
            label_confidence(logits[1], target_BHW, ignore_index=ignore_index),
        )
    )
    classes = logits[0].shape[1]
    return (
        weights_of_labels(one, target_BHW, share, classes=classes, ignore_index=ignore_index),
        weights_of_labels(other, target_BHW, share, classes=classes, ignore_index=ignore_index),
    )


def prediction_weights(logits: Pair, ramp: float) -> Pair:
    """How much each prediction counts as a target: ``1 - ramp + ramp c`` with c its entangled confidence.

    Args:
        ramp: In [0, 1]; see `SampleSelectionConfig.ramp_at`.
    """
    one, other = entangled((prediction_confidence(logits[0]), prediction_confidence(logits[1])))
    return 1 - ramp + ramp * one, 1 - ramp + ramp * other


def cross_modal_consistency(
    logits: Pair, valid_BHW: Tensor, weights: Pair | None = None, *, pool: Pool = alone
) -> Tensor:
    """The cross entropy of each sensor's prediction against the other's, which gets no gradient, both added up.

    ``sum(w_n CE(p_m, p_n)) / sum(w_n)`` over the valid pixels, labelled or not, for both orders of the sensors m and
    n; in float32, and zero with a zero gradient where nothing counts.

    Args:
        logits: [B, K, H, W] of each sensor.
        valid_BHW: bool, False where padding or nodata.
        weights: Of each sensor's prediction as a target, float32 [B, H, W]; None weighs all alike.
        pool: Sums over the processes that share the batch.
    """
    valid = valid_BHW.float()
    counts = (valid, valid) if weights is None else (valid * weights[0], valid * weights[1])
    with torch.autocast(device_type=valid_BHW.device.type, enabled=False):
        log_p = [sensor.float().log_softmax(dim=1) for sensor in logits]
        total = valid.new_zeros(())
        for sensor, target in ((0, 1), (1, 0)):
            entropy_BHW = -(log_p[target].detach().exp() * log_p[sensor]).sum(dim=1)
            total = total + mean_or_zero((entropy_BHW * counts[target]).sum(), counts[target].sum(), pool)
        return total
