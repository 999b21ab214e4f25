"""Segmentation scores, all from one confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class ConfusionMatrix:
    """Exact pixel counts, truth by prediction, gathered batch by batch.

    The counting is a plain `torch.bincount` (the tests hold it against torchmetrics), so that a machine with torch
    alone can evaluate.

    Args:
        num_classes: number of classes K.
        ignore_index: truth value of the pixels that do not count.

    Attributes:
        matrix: int64 [K, K], rows truth, columns prediction.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes: expected a positive number, got {num_classes}")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def update(self, pred_BHW: Tensor, target_BHW: Tensor) -> None:
        """Count one batch.

        Args:
            pred_BHW: predicted class indices, 0..K-1, any integer type.
            target_BHW: true class indices, 0..K-1 or `ignore_index`, of the same shape and device.

        Raises:
            ValueError: shapes differ, or a value is no class.
        """
        if pred_BHW.shape != target_BHW.shape:
            raise ValueError(
                f"prediction and truth must have one shape, got {tuple(pred_BHW.shape)} and {tuple(target_BHW.shape)}; "
                "take the argmax over classes before counting"
            )
        counted = target_BHW != self.ignore_index
        truth, pred = target_BHW[counted].long(), pred_BHW[counted].long()
        self._check(truth, "truth")
        self._check(pred, "prediction")
        counts = torch.bincount(truth * self.num_classes + pred, minlength=self.num_classes**2)
        self.matrix += counts.reshape(self.num_classes, self.num_classes).to(self.matrix.device)

    def merge(self, other: ConfusionMatrix) -> None:
        """Add the counts of another part of the same data."""
        if (other.num_classes, other.ignore_index) != (self.num_classes, self.ignore_index):
            raise ValueError(
                f"cannot merge a matrix of {other.num_classes} classes (ignore {other.ignore_index}) into one of "
                f"{self.num_classes} (ignore {self.ignore_index})"
            )
        self.matrix += other.matrix

    def _check(self, values: Tensor, what: str) -> None:
        if values.numel() == 0:
            return
        low, high = (int(v) for v in torch.aminmax(values))
        if low < 0 or high >= self.num_classes:
            raise ValueError(
                f"{what} holds values {low}..{high}, expected classes 0..{self.num_classes - 1} "
                f"(or {self.ignore_index} in the truth); check the masks against the class list"
            )


def segmentation_scores(matrix: Tensor, classes: Sequence[str], leave_out: Sequence[str] = ()) -> dict[str, Any]:
    """Mean IoU, mean class accuracy (recall), mean F1, overall accuracy and frequency-weighted IoU, in percent.

    A class in neither truth nor prediction is None and is left out of every mean; a class that is predicted but never
    true counts with zero in all three, as in torchmetrics. Without any counted pixel the means are None as well.

    Args:
        matrix: counts [K, K], rows truth, columns prediction.
        classes: K names.
        leave_out: Classes that the means over classes do not count; their pixels still count against the others.

    Returns:
        "miou", "macc", "mf1" (means over classes), "oa", "fwiou" (IoU of the classes weighted by their true pixels),
        "per_class_iou" and "per_class_f1" (name to value or None), "n_pixels".

    Raises:
        ValueError: the matrix does not fit the classes, or a name that is to be left out is none of them.
    """
    strange = [name for name in leave_out if name not in classes]
    if strange:
        raise ValueError(f"leave_out: {strange[0]!r} is not one of the classes {list(classes)}")
    if matrix.shape != (len(classes), len(classes)):
        raise ValueError(f"matrix: expected {len(classes)} x {len(classes)} counts, got shape {tuple(matrix.shape)}")
    counts = matrix.to(device="cpu", dtype=torch.float64)
    hits, truth, pred = counts.diagonal(), counts.sum(1), counts.sum(0)
    union = truth + pred - hits
    iou, f1 = _shares(hits, union), _shares(2 * hits, truth + pred)
    # Recall of a class that is never true is 0/0: zero by the rule above.
    recall = _shares(hits, truth.where(truth > 0, union))
    total = int(matrix.sum())
    kept = [name not in leave_out for name in classes]
    weighted = sum(part * share for part, share in zip(truth.tolist(), iou, strict=True) if share is not None)
    return {
        "miou": _mean(iou, kept),
        "macc": _mean(recall, kept),
        "mf1": _mean(f1, kept),
        "oa": 100.0 * float(hits.sum()) / total if total else None,
        "fwiou": weighted / total if total else None,
        "per_class_iou": dict(zip(classes, iou, strict=True)),
        "per_class_f1": dict(zip(classes, f1, strict=True)),
        "n_pixels": total,
    }


def _shares(part: Tensor, whole: Tensor) -> list[float | None]:
    return [100.0 * p / w if w else None for p, w in zip(part.tolist(), whole.tolist(), strict=True)]


def _mean(values: list[float | None], kept: list[bool]) -> float | None:
    present = [v for v, keep in zip(values, kept, strict=True) if keep and v is not None]
    return sum(present) / len(present) if present else None
