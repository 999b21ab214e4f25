"""Sums over all processes that share a batch: a mean over pixels is one over all of their pixels."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Pool = Callable[[Tensor], Tensor]
"""The sum of a tensor over the processes, with a gradient; the same operation must reach it in all of them."""


def alone(local: Tensor) -> Tensor:
    """The pool of a single process."""
    return local
