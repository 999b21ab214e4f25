"""FreeMatch's self-adaptive thresholds (Wang et al., ICLR 2023)."""

from __future__ import annotations

import torch
from torch import Tensor

from s5.losses import Pool, alone
from s5.semisup.thresholds import Prediction, follow


class FreeMatch:
    """One threshold a class, which follows what the teacher believes: eq. 5 to 8 of the paper, over pixels.

    The global threshold is the moving mean of the confidence (eq. 5). A class's own is the global one times the moving
    mean of the class's probability (eq. 6) relative to that of the likeliest class (eq. 7). Both start at 1 / K, so
    that nearly every pixel counts at first. Pixels at or over the threshold of their class count (eq. 8). The paper's
    loss for class fairness (eq. 9 to 11) is not part of it.

    Args:
        num_classes: K.
        momentum: Of the moving means (0.999 in the paper), in [0, 1).
        device: Where the means are kept.
        pool: Sums over the processes that share the batch.
    """

    def __init__(self, num_classes: int, *, momentum: float, device: torch.device, pool: Pool = alone) -> None:
        self.momentum, self._pool = momentum, pool
        self.confidence = torch.full((), 1.0 / num_classes, device=device)
        self.probability_K = torch.full((num_classes,), 1.0 / num_classes, device=device)
        self.state = {"confidence": self.confidence, "class_probability": self.probability_K}

    def weights(self, teacher: Prediction) -> Tensor:
        valid = teacher.valid
        total, count = (teacher.confidence * valid).sum(), valid.sum().float()
        total_K = (teacher.probabilities * valid[:, None]).sum((0, 2, 3))
        pooled = self._pool(torch.cat([torch.stack([total, count]), total_K]))
        mean, count, mean_K = pooled[0] / pooled[1].clamp(min=1), pooled[1], pooled[2:] / pooled[1].clamp(min=1)
        follow(self.confidence, mean, count > 0, self.momentum)
        follow(self.probability_K, mean_K, count > 0, self.momentum)
        thresholds_K = self.probability_K / self.probability_K.max() * self.confidence
        return ((teacher.confidence >= thresholds_K[teacher.classes]) & valid).float()
