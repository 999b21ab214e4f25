"""Clusters of the labelled tiles, and how many unlabelled tiles each of them may take (S5, equation 3)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from s5.seeds import seed_of

QuotaMode = Literal["labeled_share", "uniform", "tempered"]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
T = TypeVar("T")

# Cosines of float32 unit vectors are good to about 1e-7; closer ones are equal, whatever the order of a sum.
COSINE_TOLERANCE = 1e-6
_BLOCK_ROWS = 16384
_MAX_ITERATIONS = 100

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prototypes:
    """The clusters of the labelled tiles, those with most tiles first.

    Shape:
        centers: float32 [k, D], each of length 1. labeled: int64 [k], labelled tiles in each cluster.
    """

    centers: Floats
    labeled: Ints


def unit_rows(rows: npt.NDArray[np.floating]) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Rows scaled to length 1 as float32, and which of them have a direction (finite and not all 0)."""
    values: Floats = np.asarray(rows, dtype=np.float32)
    usable: npt.NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(values), axis=1)
    values = np.where(usable[:, None], values, np.float32(0))
    lengths: Floats = np.sqrt(np.einsum("ij,ij->i", values, values))
    usable &= lengths > 0
    return (values / np.where(usable, lengths, 1)[:, None]).astype(np.float32, copy=False), usable


def fit_prototypes(
    labeled_embeddings: npt.NDArray[np.floating], clusters: int, *, seed: int, restarts: int = 4, workers: int = 1
) -> Prototypes:
    """Spherical k-means: clusters of directions that maximise the summed cosine of tiles to their prototype.

    The paper clusters the labelled images' features and compares by cosine; k-means on the sphere makes both steps
    one measure. Seeded with k-means++; the best of `restarts`. The order of the rows does not matter.

    Args:
        labeled_embeddings: [L, D], any float type, any length.
        clusters: Number of prototypes; fewer, with a warning, where there are not as many distinct embeddings.
        workers: Threads; the result does not depend on them.

    Raises:
        ValueError: no labelled embedding that is finite and not 0.
    """
    if labeled_embeddings.ndim != 2:
        raise ValueError(f"labeled_embeddings: expected [tiles, width], got shape {list(labeled_embeddings.shape)}")
    directions, usable = unit_rows(labeled_embeddings)
    if not usable.all():
        logger.warning("%d of %d labelled embeddings are not finite or 0; left out", (~usable).sum(), len(usable))
    if not usable.any():
        raise ValueError(
            f"labeled_embeddings: none of {len(usable)} is finite and not 0, so there is nothing to cluster; "
            "embed the labelled tiles with a trained model first"
        )
    points, counts = _distinct_rows(directions[usable])
    if clusters > len(points):
        logger.warning(
            "clusters: %d asked for, but there are %d distinct embeddings of labelled tiles; taking %d clusters",
            clusters, len(points), len(points),
        )  # fmt: skip
        clusters = len(points)
    with one_thread_each():
        runs = [
            _spherical_kmeans(points, counts, clusters, seed_of(seed, "kmeans", run), workers)
            for run in range(restarts)
        ]
    _, centers, labeled = max(runs, key=lambda run: run[0])  # the first of equals
    order = np.argsort(-labeled, kind="stable")
    return Prototypes(centers[order], labeled[order])


def _distinct_rows(points: Floats) -> tuple[Floats, Ints]:
    """Distinct rows in a fixed order, and how often each is there."""
    rounded = np.ascontiguousarray(points.round(6) + np.float32(0))  # + 0 makes -0 and 0 the same bytes
    as_bytes = rounded.view(np.dtype((np.void, rounded.shape[1] * rounded.itemsize))).ravel()
    _, first, counts = np.unique(as_bytes, return_index=True, return_counts=True)
    return rounded[first], counts.astype(np.int64)


def _spherical_kmeans(
    points: Floats, counts: Ints, clusters: int, seed: int, workers: int
) -> tuple[float, Floats, Ints]:
    """Summed cosine, centers and labelled tiles of each, of one run; empty clusters are left out."""
    from sklearn.cluster import kmeans_plusplus

    weights = counts.astype(np.float64)
    centers: Floats = kmeans_plusplus(points, clusters, sample_weight=weights, random_state=seed % 2**32)[0]
    nearest = np.full(len(points), -1, dtype=np.int32)
    for _ in range(_MAX_ITERATIONS):
        before = nearest
        nearest, similarity = assign_clusters(points, centers, workers=workers)
        nearest = _fill_empty(nearest, similarity, clusters)
        if np.array_equal(before, nearest):
            break
        centers = _mean_directions(points, counts, nearest, centers)
    nearest, similarity = assign_clusters(points, centers, workers=workers)
    labeled = np.bincount(nearest, weights=counts, minlength=clusters).astype(np.int64)
    return float((similarity.astype(np.float64) * counts).sum()), centers[labeled > 0], labeled[labeled > 0]


def _fill_empty(nearest: npt.NDArray[np.int32], similarity: Floats, clusters: int) -> npt.NDArray[np.int32]:
    """Give each empty cluster the point that lies farthest from its prototype, of those that are not alone."""
    sizes = np.bincount(nearest, minlength=clusters)
    empty = np.flatnonzero(sizes == 0)
    if len(empty) == 0:
        return nearest
    nearest = nearest.copy()
    farthest = iter(np.argsort(similarity, kind="stable"))
    for cluster in empty:
        point = next(p for p in farthest if sizes[nearest[p]] > 1)
        sizes[nearest[point]] -= 1
        nearest[point] = cluster
    return nearest


def _mean_directions(points: Floats, counts: Ints, nearest: npt.NDArray[np.int32], centers: Floats) -> Floats:
    """The mean of each cluster's points at length 1; the old center where they cancel out."""
    weights = counts.astype(np.float32)
    order = np.argsort(nearest, kind="stable")
    ends = np.searchsorted(nearest[order], np.arange(len(centers)), side="right")
    members = np.split(order, ends[:-1])
    means, usable = unit_rows(np.stack([weights[rows] @ points[rows] for rows in members]))
    return np.where(usable[:, None], means, centers)


def assign_clusters(
    embeddings: npt.NDArray[np.floating], centers: Floats, *, workers: int = 1
) -> tuple[npt.NDArray[np.int32], Floats]:
    """The most similar prototype of each tile by cosine, read block by block, so that `embeddings` may be a memory map.

    Takes ``workers * rows * (D + 2 k) * 4`` bytes beside the result, with blocks of at most 16,384 rows that hold at
    most 8 million cosines.

    Args:
        embeddings: [N, D], any float type, any length.
        centers: float32 [k, D], each of length 1.
        workers: Threads. Blocks are cut by index and each is computed by one thread, so that the result does not
            depend on their number.

    Returns:
        Cluster int32 [N], the first of prototypes that are equally similar and -1 for a tile whose embedding is not
        finite or 0; and the cosine float32 [N], 0 for such a tile.
    """
    nearest = np.full(len(embeddings), -1, dtype=np.int32)
    similarity = np.zeros(len(embeddings), dtype=np.float32)
    step = max(256, min(_BLOCK_ROWS, 2**23 // len(centers)))

    def assign(first: int) -> None:
        block, usable = unit_rows(embeddings[first : first + step])
        cosines = block @ centers.T
        highest = cosines.max(axis=1)
        # argmax of "as good as the highest": ties go to the first prototype, however BLAS rounds
        chosen = (cosines >= (highest - COSINE_TOLERANCE)[:, None]).argmax(axis=1)
        nearest[first : first + step] = np.where(usable, chosen, -1)
        similarity[first : first + step] = np.where(usable, highest, 0)

    with one_thread_each():
        in_threads(assign, range(0, len(embeddings), step), workers)
    return nearest, similarity


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Matrix products on one thread each: how BLAS shares one out among several changes its last bits."""
    with _thread_pools().limit(limits=1):
        yield


@cache
def _thread_pools() -> Any:
    """The thread pools of BLAS and OpenMP; to find them takes 5 ms, hence once, when all libraries are loaded."""
    import sklearn.cluster  # noqa: F401
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def in_threads(work: Callable[[T], None], items: Iterable[T], workers: int) -> None:
    """Call `work` on every item, on several threads where that is asked for."""
    if workers == 1:
        for item in items:
            work(item)
        return
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(work, items):
            pass


def quota_weights(labeled: Ints, mode: QuotaMode, temperature: float = 1.0) -> npt.NDArray[np.float64]:
    """What each cluster's quota is proportional to.

    Args:
        labeled: Labelled tiles in each cluster.
        mode: ``"labeled_share"`` is the paper's B_m = B * N_m / N; ``"uniform"`` gives every cluster the same;
            ``"tempered"`` lies between: N_m ** (1 / temperature), the labelled share at 1, uniform towards infinity.
    """
    if mode not in get_args(QuotaMode):
        raise ValueError(f"quota: expected one of {list(get_args(QuotaMode))}, got {mode!r}")
    if mode == "uniform":
        return np.ones(len(labeled))
    shares = labeled / labeled.max(initial=1)
    return shares ** (1 / temperature) if mode == "tempered" else labeled.astype(np.float64)


def largest_remainder(weights: npt.NDArray[np.float64], total: int) -> Ints:
    """Whole numbers in proportion to `weights` that sum to `total`: rounded down, the rest by largest remainder.

    Equal remainders go to the first; weights that are all 0 count as equal.
    """
    if len(weights) == 0 or total == 0:
        return np.zeros(len(weights), dtype=np.int64)
    weights = np.asarray(weights, dtype=np.float64)
    weights = weights if weights.sum() > 0 else np.ones(len(weights))
    ideal = weights * total / weights.sum()
    # a share that is whole up to rounding is whole
    quotas: Ints = np.floor(ideal + 1e-9).astype(np.int64)
    remainders = (ideal - quotas).round(9)
    quotas[np.argsort(-remainders, kind="stable")[: total - quotas.sum()]] += 1
    assert quotas.sum() == total
    return quotas
