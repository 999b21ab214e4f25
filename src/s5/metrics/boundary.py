"""Boundary IoU (Cheng et al., CVPR 2021): how well outlines fit, which plain IoU hardly sees on large areas."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class BoundaryCounts:
    """Pixels of true and predicted boundaries, class by class, gathered batch by batch.

    A pixel of a class belongs to its boundary where another class, or the outside of the image, lies within `d` pixels
    (in a square, as repeated 3 x 3 erosion has it); `d` is a share of the image's diagonal and at least 1. Boundary
    IoU is the overlap of both boundaries over their union, summed over all images. Pixels of the ignore index belong to
    no class, make no boundary and do not count.

    Args:
        num_classes: number of classes K.
        ratio: width of the boundary, as a share of the diagonal.
        ignore_index: truth value of the pixels that do not count.

    Attributes:
        counts: int64 [2, K], intersection and union.
    """

    def __init__(self, num_classes: int, ratio: float = 0.02, ignore_index: int = 255) -> None:
        self.num_classes, self.ratio, self.ignore_index = num_classes, ratio, ignore_index
        self.counts = torch.zeros(2, num_classes, dtype=torch.int64)

    def update(self, pred_BHW: Tensor, target_BHW: Tensor) -> None:
        """Count one batch of predicted and true class indices of one shape."""
        ignored = target_BHW == self.ignore_index
        width = boundary_width(target_BHW.shape[-2], target_BHW.shape[-1], self.ratio)
        for index in range(self.num_classes):
            truth = boundary_of(target_BHW == index, ignored, width)
            pred = boundary_of((pred_BHW == index) & ~ignored, ignored, width)
            self.counts[0, index] += int((truth & pred).sum())
            self.counts[1, index] += int((truth | pred).sum())


def boundary_width(height: int, width: int, ratio: float) -> int:
    """The pixels of a boundary, in an image of this size."""
    return max(1, round(ratio * math.hypot(height, width)))


def boundary_of(inside_BHW: Tensor, ignored_BHW: Tensor, width: int) -> Tensor:
    """The pixels of a region that lie within `width` of what is outside of it and not ignored; bool [B, H, W]."""
    outside = (~(inside_BHW | ignored_BHW)).float()[:, None]
    padded = F.pad(outside, (width,) * 4, value=1.0)
    side = 2 * width + 1
    near = F.max_pool2d(F.max_pool2d(padded, (side, 1), stride=1), (1, side), stride=1)
    return inside_BHW & (near[:, 0] > 0)


def boundary_scores(counts: Tensor, classes: Sequence[str], leave_out: Sequence[str] = ()) -> dict[str, Any]:
    """Boundary IoU in percent: "boundary_miou", and "per_class_boundary_iou" (None where a class has no boundary)."""
    overlap, union = counts.tolist()
    values = [100.0 * o / u if u else None for o, u in zip(overlap, union, strict=True)]
    per_class = dict(zip(classes, values, strict=True))
    counted = [value for name, value in per_class.items() if value is not None and name not in leave_out]
    return {"boundary_miou": sum(counted) / len(counted) if counted else None, "per_class_boundary_iou": per_class}
