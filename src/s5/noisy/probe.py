"""What a layer knows of the classes: a linear classifier on its features, fitted in closed form."""

from __future__ import annotations

import torch
from torch import Tensor


class RidgeProbe:
    """Ridge regression of one-hot classes on standardised features (a linear probe: Alain and Bengio, 2016).

    Least squares on one-hot targets has one solution, needs no learning rate and no steps, and takes one pass over the
    pixels: only sums of products of columns are kept, in float64. It minimises, over standardised features x,
    mean_i ||W x_i + b - onehot(y_i)||^2 + ridge ||W||^2.

    Args:
        classes: number of classes K.
        ridge: weight of the penalty.
    """

    def __init__(self, classes: int, *, ridge: float = 1e-3) -> None:
        if not ridge > 0:
            raise ValueError(f"ridge: expected a positive number, got {ridge!r}")
        self.classes, self.ridge = classes, ridge
        self._rows = 0
        self._sums: list[Tensor] | None = None

    def update(self, x_ND: Tensor, y_N: Tensor) -> None:
        """Add pixels: features, and their classes in 0..K-1."""
        x = x_ND.double()
        targets = torch.nn.functional.one_hot(y_N.long(), self.classes).double()
        sums = [x.sum(0), targets.sum(0), x.T @ x, x.T @ targets]
        self._sums = sums if self._sums is None else [a + b for a, b in zip(self._sums, sums, strict=True)]
        self._rows += len(x)

    def solve(self) -> tuple[Tensor, Tensor]:
        """Weights [K, D] and bias [K] on features as they are, float32; a constant feature gets the weight 0.

        Raises:
            ValueError: there was no pixel.
        """
        if self._sums is None or self._rows == 0:
            raise ValueError("probe: there is no labelled pixel to fit on; check the masks of the split")
        mean_x, mean_y = self._sums[0] / self._rows, self._sums[1] / self._rows
        covariance = self._sums[2] / self._rows - torch.outer(mean_x, mean_x)
        shared = self._sums[3] / self._rows - torch.outer(mean_x, mean_y)
        variance = covariance.diagonal()
        varies = variance > 1e-12 * (variance.max() + mean_x.square())
        scale = torch.where(varies, variance.clamp(min=0).sqrt(), 1.0).reciprocal() * varies
        penalty = self.ridge * torch.eye(len(scale), dtype=scale.dtype, device=scale.device)
        standard = torch.linalg.solve(scale[:, None] * covariance * scale + penalty, scale[:, None] * shared)
        weights = (scale[:, None] * standard).T
        return weights.float(), (mean_y - weights @ mean_x).float()
