"""From scores and embeddings to a pool of tiles worth pretraining on (S5, data selection)."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from s5.selection.diversity import Ints, QuotaMode, assign_clusters, fit_prototypes, quota_weights
from s5.selection.greedy import ClusterPass, fill_clusters

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SamplingConfig:
    """How the pool is put together.

    Args:
        budget: Tiles to take, 0 or more; all that are usable where there are fewer.
        clusters: Prototypes of the labelled tiles, at least 1.
        quota: ``"labeled_share"`` (the paper), ``"uniform"`` or ``"tempered"``, see `quota_weights`.
        temperature: Of tempered quotas, over 0; 1 is the labelled share, large is uniform.
        min_entropy: Tiles below it are left out, in [0, 1]: a blank tile is the most certain of all. None for none.
        max_similarity: A tile whose cosine with a taken tile of its cluster is over this is a near duplicate; in
            (0, 1]. None takes near duplicates like any other tile.
        seed: Of the clustering.
        restarts: Runs of k-means of which the best is kept.
    """

    budget: int
    clusters: int = 8
    quota: QuotaMode = "labeled_share"
    temperature: float = 2.0
    min_entropy: float | None = None
    max_similarity: float | None = None
    seed: int = 0
    restarts: int = 4

    def __post_init__(self) -> None:
        for name, lowest in (("budget", 0), ("clusters", 1), ("seed", 0), ("restarts", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
                raise ValueError(
                    f"diversity_sampling.{name}: expected a whole number of at least {lowest}, got {value!r}"
                )
        quota_weights(np.ones(1, dtype=np.int64), self.quota)
        self._check_number("temperature", 0, float("inf"))
        if self.temperature == 0:
            raise ValueError("diversity_sampling.temperature: expected a number over 0, got 0; 1 is the labelled share")
        self._check_number("min_entropy", 0, 1)
        self._check_number("max_similarity", 0, 1)
        if self.max_similarity == 0:
            raise ValueError("diversity_sampling.max_similarity: expected a cosine in (0, 1], got 0; null turns it off")

    def _check_number(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        if value is None and name != "temperature":
            return
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise ValueError(f"diversity_sampling.{name}: expected a number from {low} to {high}, got {value!r}")


@dataclass(frozen=True)
class Selection:
    """Which tiles were taken, which were not, and why.

    Args:
        pool: A row a taken tile in ascending order of entropy: ``tile_id``, ``cluster`` int32, ``entropy`` float32,
            ``entropy_rank`` int32 (1 is the most certain of all scored tiles), ``reason``.
        clusters: A row a cluster: ``cluster``, ``quota`` (the quotas sum to the budget, or to the usable tiles where
            they are fewer), ``filled``, ``labeled``, ``candidates`` (usable tiles assigned to it) and ``duplicates``
            (met on the way), all int32.
        dropped: Every other tile: ``tile_id``, ``cluster`` (-1 where it has none), ``entropy``, ``reason``.
    """

    pool: pd.DataFrame
    clusters: pd.DataFrame
    dropped: pd.DataFrame


def sample_diverse(
    scores: pd.DataFrame,
    embeddings: npt.NDArray[np.floating],
    labeled_embeddings: npt.NDArray[np.floating],
    config: SamplingConfig,
) -> Selection:
    """Take the most certain tiles of every cluster up to its quota; S5, equation 3 and the greedy pass around it.

    Every tile goes to the most similar prototype of the labelled tiles. Each cluster is gone through in ascending
    order of entropy, ties by tile id, until its quota is full; what a cluster cannot fill goes to the others in
    proportion to their quotas. The same rows in another order give the same pool.

    Args:
        scores: ``tile_id`` (unique) and ``entropy`` of N tiles; other columns are left alone.
        embeddings: [N, D], row-aligned with `scores`; may be a memory map, read in blocks.
        labeled_embeddings: [L, D] of the labelled tiles.

    Raises:
        ValueError: tables that do not fit together, an id that stands twice, or no usable labelled embedding.
    """
    _check_inputs(scores, embeddings, labeled_embeddings)
    prototypes = fit_prototypes(labeled_embeddings, config.clusters, seed=config.seed, restarts=config.restarts)
    cluster, _ = assign_clusters(embeddings, prototypes.centers)
    tile_ids = scores["tile_id"].to_numpy(dtype=object)
    entropy = scores["entropy"].to_numpy(dtype=np.float32)
    order = _ascending(tile_ids, entropy)
    reasons = _why_unusable(entropy, cluster, config.min_entropy)

    usable = order[reasons[order] == ""]
    passes = [ClusterPass(rows) for rows in _by_cluster(usable, cluster, len(prototypes.centers))]
    weights = quota_weights(prototypes.labeled, config.quota, config.temperature)
    quotas = fill_clusters(passes, weights, min(config.budget, len(usable)), embeddings, config.max_similarity)

    _explain(reasons, passes, quotas, tile_ids)
    taken = np.zeros(len(scores), dtype=bool)
    taken[[row for state in passes for row in state.taken]] = True
    tiles = pd.DataFrame({"tile_id": tile_ids, "cluster": cluster, "entropy": entropy, "reason": reasons}).iloc[order]
    tiles = tiles.astype({"tile_id": str, "reason": str})
    tiles.insert(3, "entropy_rank", np.arange(1, len(tiles) + 1, dtype=np.int32))
    taken = taken[order]
    selection = Selection(
        pool=tiles[taken].reset_index(drop=True),
        clusters=_cluster_table(passes, quotas, prototypes.labeled),
        dropped=tiles[~taken].drop(columns="entropy_rank").reset_index(drop=True),
    )
    _report(selection, config.budget)
    return selection


def _check_inputs(
    scores: pd.DataFrame, embeddings: npt.NDArray[np.floating], labeled_embeddings: npt.NDArray[np.floating]
) -> None:
    missing = [name for name in ("tile_id", "entropy") if name not in scores]
    if missing:
        raise ValueError(f"scores: column {missing[0]!r} is missing (found {list(scores)}); score the tiles again")
    repeated = scores["tile_id"][scores["tile_id"].duplicated()]
    if len(repeated):
        raise ValueError(f"scores: tile_id {repeated.iloc[0]!r} stands twice; a tile is scored once")
    if embeddings.ndim != 2 or len(embeddings) != len(scores):
        raise ValueError(
            f"embeddings: expected [{len(scores)}, width] to go with {len(scores)} scores, got "
            f"{list(embeddings.shape)}; score and embed the same tiles"
        )
    if len(embeddings) and embeddings.shape[1:] != labeled_embeddings.shape[1:]:
        raise ValueError(
            f"embeddings: width {embeddings.shape[1]}, but the labelled ones have shape "
            f"{list(labeled_embeddings.shape)}; embed both with the same model"
        )


def _ascending(tile_ids: npt.NDArray[np.object_], entropy: npt.NDArray[np.float32]) -> Ints:
    """Row numbers by (entropy, tile id); rows without an entropy come last."""
    place_of_id = np.empty(len(tile_ids), dtype=np.int64)
    place_of_id[np.argsort(tile_ids, kind="stable")] = np.arange(len(tile_ids))
    return np.lexsort((place_of_id, np.where(np.isfinite(entropy), entropy, np.inf)))


def _by_cluster(rows: Ints, cluster: npt.NDArray[np.int32], num_clusters: int) -> list[Ints]:
    """`rows` of each cluster, in the order in which they come."""
    ends = np.cumsum(np.bincount(cluster[rows], minlength=num_clusters))
    return np.split(rows[np.argsort(cluster[rows], kind="stable")], ends[:-1])


def _why_unusable(
    entropy: npt.NDArray[np.float32], cluster: npt.NDArray[np.int32], min_entropy: float | None
) -> npt.NDArray[np.object_]:
    """A reason for each tile that cannot be taken at all, else an empty string."""
    reasons = np.full(len(entropy), "", dtype=object)
    if min_entropy is not None:
        reasons[entropy < min_entropy] = f"entropy below the bound of {min_entropy:g}"
    reasons[cluster < 0] = "embedding is 0 or not finite"
    reasons[~np.isfinite(entropy)] = "no entropy: no valid pixel, or the network's output is not finite"
    return reasons


def _explain(
    reasons: npt.NDArray[np.object_], passes: list[ClusterPass], quotas: Ints, tile_ids: npt.NDArray[np.object_]
) -> None:
    """Write down for every tile of the passes why it was or was not taken."""
    for cluster, (state, quota) in enumerate(zip(passes, quotas, strict=True)):
        filled = len(state.taken)
        for place, row in enumerate(state.taken, start=1):
            reasons[row] = f"place {place} of {filled} in cluster {cluster} by lowest entropy"
            if place > quota:
                reasons[row] += f", beyond its quota of {quota} because other clusters ran short"
        for row, original in zip(state.duplicates, state.originals, strict=True):
            reasons[row] = f"near duplicate of {tile_ids[original]}"
        full = f"cluster full: its {filled} places went to tiles of lower entropy"
        reasons[state.candidates[state.examined :]] = full if filled else "cluster full: its quota is 0"


def _cluster_table(passes: list[ClusterPass], quotas: Ints, labeled: Ints) -> pd.DataFrame:
    columns = {
        "cluster": np.arange(len(passes)),
        "quota": quotas,
        "filled": [len(state.taken) for state in passes],
        "labeled": labeled,
        "candidates": [len(state.candidates) for state in passes],
        "duplicates": [len(state.duplicates) for state in passes],
    }
    return pd.DataFrame(columns).astype(np.int32)


def _report(selection: Selection, budget: int) -> None:
    taken, scored = len(selection.pool), len(selection.pool) + len(selection.dropped)
    duplicates, usable = selection.clusters["duplicates"].sum(), selection.clusters["candidates"].sum()
    short = "" if taken == budget else f"; the budget of {budget} could not be filled"
    logger.log(
        logging.WARNING if short else logging.INFO,
        "selected %d of %d scored tiles (%d usable, %d near duplicates left out)%s",
        taken, scored, usable, duplicates, short,
    )  # fmt: skip
