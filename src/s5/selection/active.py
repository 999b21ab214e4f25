"""What active learning would take, as references: BADGE-like and k-centre; both cost tiles x budget x width.

They look for tiles that are worth labelling, not for tiles whose pseudo-labels can be trusted.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from s5.seeds import seed_of
from s5.selection.diversity import COSINE_TOLERANCE, Floats, Ints, one_thread_each


def k_centre(directions: Floats, labeled: Floats, budget: int) -> Ints:
    """The tile farthest from everything labelled or taken, again and again; Sener and Savarese 2018, algorithm 1.

    Args:
        directions: float32 [N, D] of length 1, in the order in which ties break.
        labeled: float32 [L, D] of length 1.
        budget: Tiles to take, at most N.

    Returns:
        Row numbers in the order in which they were taken.
    """
    taken: list[int] = []
    with one_thread_each():
        nearest = np.full(len(directions), -1.0, dtype=np.float32)  # cosine with the most similar one; -1 is farthest
        for first in range(0, len(labeled), 1024):
            block = labeled[first : first + 1024]
            for start in range(0, len(directions), 8192):
                part = directions[start : start + 8192] @ block.T
                nearest[start : start + 8192] = np.maximum(nearest[start : start + 8192], part.max(axis=1))
        for _ in range(budget):
            row = int((nearest <= nearest.min() + COSINE_TOLERANCE).argmax())
            taken.append(row)
            nearest = np.maximum(nearest, directions @ directions[row])
            nearest[taken] = np.inf
    return np.array(taken, dtype=np.int64)


def badge(directions: Floats, uncertainty: npt.NDArray[np.float32], budget: int, *, seed: int) -> Ints:
    """Uncertain and different tiles: k-means++ over embeddings as long as they are uncertain; after Ash et al. 2020.

    BADGE draws over the gradients of the last layer, (p - onehot(argmax p)) x h, which has the width D times the
    classes; here a tile's direction is scaled by 1 - confidence, about the length of p - onehot.

    Args:
        directions: float32 [N, D] of length 1.
        uncertainty: float32 [N], at least 0.
        budget: Tiles to take, at most N.
        seed: Of the draws.

    Returns:
        Row numbers in the order in which they were taken; the first is the most uncertain.
    """
    points = directions * uncertainty[:, None]
    squares = np.einsum("ij,ij->i", points, points).astype(np.float64)
    generator = np.random.default_rng(seed_of(seed, "badge", 0))
    taken: list[int] = []
    distance = squares.copy()
    with one_thread_each():
        for number in range(budget):
            row = int(squares.argmax()) if number == 0 else _draw(distance, taken, generator)
            taken.append(row)
            to_row = squares + squares[row] - 2 * (points @ points[row]).astype(np.float64)
            distance = np.maximum(to_row, 0) if number == 0 else np.minimum(distance, np.maximum(to_row, 0))
            distance[taken] = 0
    return np.array(taken, dtype=np.int64)


def _draw(distance: npt.NDArray[np.float64], taken: list[int], generator: np.random.Generator) -> int:
    """A row with a probability in proportion to its squared distance; the first free one where all are 0."""
    ends = distance.cumsum()
    if ends[-1] <= 0:
        free = np.ones(len(distance), dtype=bool)
        free[taken] = False
        return int(free.argmax())
    row = int(np.searchsorted(ends, generator.random() * ends[-1], side="right"))
    return min(row, len(distance) - 1)
