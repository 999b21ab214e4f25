"""Weights that keep rare classes from being drowned by common ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def balanced_weights(counts: Sequence[int], exponent: float) -> Tensor:
    """A weight for each class, ``share ** -exponent``, scaled so that the mean over all counted pixels is 1.

    Args:
        counts: Labelled pixels of each class, K of them; a class without any takes the weight of the rarest other.
        exponent: 0 weighs all pixels alike, 1 all classes alike, 0.5 lies between; in [0, 1].

    Returns:
        float32 [K].

    Raises:
        ValueError: no pixel is labelled, or the exponent is out of range.
    """
    if not 0 <= exponent <= 1:
        raise ValueError(f"class_balance: expected an exponent in [0, 1], got {exponent!r}")
    pixels = torch.as_tensor(list(counts), dtype=torch.float64)
    if not pixels.sum() > 0:
        raise ValueError(f"class_balance: no pixel of the labelled tiles is labelled (counts {list(counts)})")
    pixels = torch.where(pixels > 0, pixels, pixels[pixels > 0].min())
    weights = (pixels / pixels.sum()) ** -exponent
    seen = torch.as_tensor(list(counts), dtype=torch.float64)
    return (weights * seen.sum() / (weights * seen).sum()).float()
