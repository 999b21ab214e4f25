"""Which pseudo-labels count: rules that give every pixel a weight, 0 to leave it out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from s5.losses import Pool, alone


@dataclass(frozen=True)
class Prediction:
    """What the teacher says of a batch.

    Shape: probabilities float32 [B, K, H, W]; confidence, their maximum, float32 [B, H, W]; classes, where that is,
    int64 [B, H, W]; valid bool [B, H, W], False where padding or nodata.
    """

    probabilities: Tensor
    confidence: Tensor
    classes: Tensor
    valid: Tensor


class Rule(Protocol):
    """A rule, as `s5.semisup.pseudo_labels.PseudoLabeler` sees it.

    Attributes:
        state: What the rule remembers from step to step, for checkpoints; moved in place.
    """

    state: dict[str, Tensor]

    def weights(self, teacher: Prediction) -> Tensor:
        """Weights float32 [B, H, W] in [0, 1], 0 where not valid."""
        ...


class Fixed:
    """One threshold for all: FixMatch (Sohn et al., NeurIPS 2020, eq. 4)."""

    def __init__(self, tau: float) -> None:
        self.tau = tau
        self.state: dict[str, Tensor] = {}

    def weights(self, teacher: Prediction) -> Tensor:
        return ((teacher.confidence >= self.tau) & teacher.valid).float()


class Share(Fixed):
    """All pixels of an image count with the share of them over tau: DACS (Tranheden et al., WACV 2021)."""

    def weights(self, teacher: Prediction) -> Tensor:
        share_B = super().weights(teacher).sum((1, 2)) / teacher.valid.sum((1, 2)).clamp(min=1)
        return share_B[:, None, None] * teacher.valid


class PerClass:
    """Tau, lowered for classes that the teacher is less sure of than of the surest one.

    FreeMatch's eq. 7 with tau in place of its global threshold, and with the mean confidence in the pixels of a class.
    """

    def __init__(
        self, tau: float, num_classes: int, *, momentum: float, device: torch.device, pool: Pool = alone
    ) -> None:
        self.tau, self.momentum, self._pool = tau, momentum, pool
        self.confidence_K = torch.full((num_classes,), 1.0 / num_classes, device=device)
        self.state = {"class_confidence": self.confidence_K}

    def weights(self, teacher: Prediction) -> Tensor:
        valid, classes = teacher.valid.flatten().float(), teacher.classes.flatten()
        none_K = torch.zeros_like(self.confidence_K)
        count_K = none_K.index_add(0, classes, valid)
        total_K = none_K.index_add(0, classes, teacher.confidence.flatten() * valid)
        count_K, total_K = self._pool(torch.stack([count_K, total_K])).unbind()
        follow(self.confidence_K, total_K / count_K.clamp(min=1), count_K > 0, self.momentum)
        thresholds_K = self.confidence_K / self.confidence_K.max() * self.tau
        return ((teacher.confidence >= thresholds_K[teacher.classes]) & teacher.valid).float()


def follow(average: Tensor, value: Tensor, known: Tensor, momentum: float) -> None:
    """Move an average in place to ``momentum * average + (1 - momentum) * value``, where the value is known."""
    average.lerp_(torch.where(known, value, average), 1 - momentum)
