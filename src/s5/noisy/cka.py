"""How alike two layers represent the same pixels: linear centred kernel alignment (Kornblith et al., ICML 2019)."""

from __future__ import annotations

import torch
from torch import Tensor


class LinearCKA:
    """Linear CKA of two feature matrices whose rows come batch after batch; the result is that of all rows at once.

    Kornblith et al., Section 3: ||Y'X||_F^2 / (||X'X||_F ||Y'Y||_F) for X and Y with centred columns. Only sums of
    products of columns are kept, in float64, so that memory goes with the square of the channels, not with the rows.
    It is 1 for X and Y that differ by a rotation, a reflection or one factor, and 0 for columns without correlation.
    """

    def __init__(self) -> None:
        self._rows = 0
        self._sums: tuple[Tensor, Tensor] | None = None
        self._products: tuple[Tensor, Tensor, Tensor] | None = None

    def update(self, x_ND: Tensor, y_NE: Tensor) -> None:
        """Add rows: position i of both is the same pixel.

        Raises:
            ValueError: the two have different numbers of rows.
        """
        if x_ND.ndim != 2 or y_NE.ndim != 2 or len(x_ND) != len(y_NE):
            raise ValueError(
                "cka: expected two matrices with a row for each pixel, the same in both; got the shapes "
                f"{tuple(x_ND.shape)} and {tuple(y_NE.shape)}"
            )
        x, y = x_ND.double(), y_NE.double()
        sums, products = (x.sum(0), y.sum(0)), (x.T @ x, y.T @ y, x.T @ y)
        if self._sums is None or self._products is None:
            self._sums, self._products = sums, products
        else:
            self._sums = (self._sums[0] + sums[0], self._sums[1] + sums[1])
            before = self._products
            self._products = (before[0] + products[0], before[1] + products[1], before[2] + products[2])
        self._rows += len(x)

    def value(self) -> float | None:
        """CKA in [0, 1]; None where one of the two is the same for all pixels, or no row was given."""
        if self._sums is None or self._products is None or self._rows == 0:
            return None
        mean_x, mean_y = (total / self._rows for total in self._sums)
        xx, yy, xy = self._products
        own_x = (xx - self._rows * torch.outer(mean_x, mean_x)).norm()
        own_y = (yy - self._rows * torch.outer(mean_y, mean_y)).norm()
        shared = (xy - self._rows * torch.outer(mean_x, mean_y)).norm()
        # What rounding leaves of a constant column, relative to the products before they were centred.
        if own_x <= 1e-12 * xx.norm() or own_y <= 1e-12 * yy.norm():
            return None
        return float((shared**2 / (own_x * own_y)).clamp(0.0, 1.0))


def linear_cka(x_ND: Tensor, y_NE: Tensor) -> float | None:
    """`LinearCKA` of two whole matrices."""
    cka = LinearCKA()
    cka.update(x_ND, y_NE)
    return cka.value()
