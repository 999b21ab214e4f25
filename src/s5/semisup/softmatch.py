"""SoftMatch's weights in place of a threshold (Chen et al., ICLR 2023)."""

from __future__ import annotations

import torch
from torch import Tensor

from s5.losses import Pool, alone
from s5.semisup.thresholds import Prediction, follow

# Keeps a class that the teacher never expects, and a standard deviation of zero, from dividing by zero.
_LEAST = 1e-6


class SoftMatch:
    """A truncated Gaussian of the confidence: 1 from its mean on, ``exp(-(c - mean)^2 / (2 variance))`` below it.

    Mean and variance (the unbiased one) are moving ones, which start at 1 / K and 1. Uniform alignment first divides
    the teacher's probabilities by their moving mean, class by class, and scales them to sum to 1 again: an unlikely
    class weighs more. It changes weights alone, never the pseudo-labels. The authors' code halves the standard
    deviation in the exponent; this is the paper's equation, which does not.

    Args:
        num_classes: K.
        momentum: Of the moving means (0.999 in the paper), in [0, 1).
        uniform_alignment: Whether to align.
        device: Where the means are kept.
        pool: Sums over the processes that share the batch.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        momentum: float,
        uniform_alignment: bool,
        device: torch.device,
        pool: Pool = alone,
    ) -> None:
        self.momentum, self.uniform_alignment, self._pool = momentum, uniform_alignment, pool
        self.mean = torch.full((), 1.0 / num_classes, device=device)
        self.variance = torch.ones((), device=device)
        self.probability_K = torch.full((num_classes,), 1.0 / num_classes, device=device)
        self.state = {"mean": self.mean, "variance": self.variance, "class_probability": self.probability_K}

    def weights(self, teacher: Prediction) -> Tensor:
        valid, count = teacher.valid, self._pool(teacher.valid.sum().float())
        confidence = self._aligned_confidence(teacher, count) if self.uniform_alignment else teacher.confidence
        mean = self._pool((confidence * valid).sum()) / count.clamp(min=1)
        variance = self._pool(((confidence - mean).square() * valid).sum()) / (count - 1).clamp(min=1)
        follow(self.mean, mean, count > 0, self.momentum)
        follow(self.variance, variance, count > 1, self.momentum)
        below = (confidence - self.mean).clamp(max=0)
        return torch.exp(-below.square() / (2 * self.variance.clamp(min=_LEAST**2))) * valid

    def _aligned_confidence(self, teacher: Prediction, count: Tensor) -> Tensor:
        mean_K = self._pool((teacher.probabilities * teacher.valid[:, None]).sum((0, 2, 3))) / count.clamp(min=1)
        follow(self.probability_K, mean_K, count > 0, self.momentum)
        aligned_BKHW = teacher.probabilities / self.probability_K.clamp(min=_LEAST)[:, None, None]
        return aligned_BKHW.amax(1) / aligned_BKHW.sum(1)
