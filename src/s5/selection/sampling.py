"""From scores and embeddings to a pool of tiles worth pretraining on (S5, data selection)."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from os import cpu_count
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from s5.seeds import seed_of
from s5.selection.active import badge, k_centre
from s5.selection.diversity import Ints, QuotaMode, assign_clusters, fit_prototypes, quota_weights, unit_rows
from s5.selection.greedy import ClusterPass, fill_clusters

Strategy = Literal["s5", "s5_band", "diversity", "entropy", "random", "badge", "k_centre"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SamplingConfig:
    """How the pool is put together.

    Args:
        budget: Tiles to take, 0 or more; all that are usable where there are fewer.
        strategy: ``"s5"`` is the paper's greedy pass: each cluster's most certain tiles up to its quota.
            ``"s5_band"`` is the same without the most certain tiles. ``"diversity"`` alone draws at random within the
            clusters, ``"entropy"`` alone takes the most certain tiles of all, ``"random"`` looks at neither.
            ``"badge"`` and ``"k_centre"`` are references from active learning, see `s5.selection.active`.
        clusters: Prototypes of the labelled tiles, at least 1.
        quota: ``"labeled_share"`` (the paper), ``"uniform"`` or ``"tempered"``, see `quota_weights`.
        temperature: Of tempered quotas, over 0; 1 is the labelled share, large is uniform.
        min_entropy: Tiles below it are left out, in [0, 1]: a blank tile is the most certain of all. None for none.
        band: Of ``"s5_band"``: the share of the most certain tiles that is left out where `min_entropy` is None, in
            [0, 1).
        max_similarity: A tile whose cosine with a taken tile of its cluster is over this is a near duplicate; in
            (0, 1]. None takes near duplicates like any other tile. For the strategies that fill quotas.
        seed: Of the clustering and of draws.
        restarts: Runs of k-means of which the best is kept.
        workers: Threads, 0 for one a processor; the pool does not depend on them.
    """

    budget: int
    clusters: int = 8
    strategy: Strategy = "s5"
    quota: QuotaMode = "labeled_share"
    temperature: float = 2.0
    min_entropy: float | None = None
    band: float = 0.1
    max_similarity: float | None = None
    seed: int = 0
    restarts: int = 4
    workers: int = 1

    def __post_init__(self) -> None:
        for name, lowest in (("budget", 0), ("clusters", 1), ("seed", 0), ("restarts", 1), ("workers", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
                raise ValueError(
                    f"diversity_sampling.{name}: expected a whole number of at least {lowest}, got {value!r}"
                )
        quota_weights(np.ones(1, dtype=np.int64), self.quota)
        self._check_number("temperature", 0, float("inf"))
        if self.temperature == 0:
            raise ValueError("diversity_sampling.temperature: expected a number over 0, got 0; 1 is the labelled share")
        if self.strategy not in get_args(Strategy):
            raise ValueError(
                f"diversity_sampling.strategy: expected one of {', '.join(get_args(Strategy))}, got {self.strategy!r}"
            )
        self._check_number("min_entropy", 0, 1)
        self._check_number("band", 0, 1)
        if self.band == 1:
            raise ValueError("diversity_sampling.band: expected a share below 1, got 1; nothing would be left")
        self._check_number("max_similarity", 0, 1)
        if self.max_similarity == 0:
            raise ValueError("diversity_sampling.max_similarity: expected a cosine in (0, 1], got 0; null turns it off")

    def _check_number(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        if value is None and name not in ("temperature", "band"):
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
            they are fewer; strategies without quotas have what they took), ``filled``, ``labeled``, ``candidates``
            (usable tiles assigned to it) and ``duplicates`` (met on the way), all int32.
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
    *,
    left_out: pd.Series[str] | None = None,
) -> Selection:
    """Take tiles worth pretraining on; by default S5's equation 3 and the greedy pass around it.

    Every tile goes to the most similar prototype of the labelled tiles. Each cluster is gone through in ascending
    order of entropy, ties by tile id, until its quota is full; what a cluster cannot fill goes to the others in
    proportion to their quotas. The same rows in another order give the same pool, whatever the number of workers.
    The other strategies leave out a part of this or replace it, see `SamplingConfig`.

    Beside the tables, about 1 kB a tile, the memory is that of `assign_clusters` and of `fill_clusters`; of a memory
    map it is the system's cache.

    Args:
        scores: ``tile_id`` (unique) and ``entropy`` of N tiles; ``confidence`` for BADGE, where it is there.
        embeddings: [N, D], row-aligned with `scores`; may be a memory map, read in blocks.
        labeled_embeddings: [L, D] of the labelled tiles.
        left_out: Reasons by tile id, such as `s5.selection.quality.quality_reasons`: a tile with one is not taken.

    Raises:
        ValueError: tables that do not fit together, an id that stands twice, or no usable labelled embedding.
    """
    _check_inputs(scores, embeddings, labeled_embeddings)
    workers = config.workers or cpu_count() or 1
    prototypes = fit_prototypes(
        labeled_embeddings, config.clusters, seed=config.seed, restarts=config.restarts, workers=workers
    )
    cluster, _ = assign_clusters(embeddings, prototypes.centers, workers=workers)
    tiles = _Tiles.of(scores, embeddings, cluster)
    order = _ascending(tiles.tile_ids, tiles.entropy)
    reasons = _why_unusable(tiles.entropy, cluster, _lower_bound(config, tiles.entropy[cluster >= 0]))
    if left_out is not None:
        asked = left_out.reindex(tiles.tile_ids).fillna("").to_numpy(dtype=object)
        reasons = np.where(asked != "", asked, reasons)
    usable = order[reasons[order] == ""]
    if config.strategy in _BY_QUOTA:
        passes, quotas = _by_quota(config, tiles, usable, prototypes.labeled, workers)
    else:
        passes, quotas = _without_quotas(config, tiles, usable, labeled_embeddings, len(prototypes.centers))

    _explain(reasons, passes, quotas, tiles.tile_ids, config)
    selection = _tables(tiles, reasons, order, passes, _cluster_table(passes, quotas, prototypes.labeled))
    _report(selection, config.budget)
    return selection


@dataclass(frozen=True)
class _Tiles:
    """What is known of the scored tiles, row by row."""

    tile_ids: npt.NDArray[np.object_]
    entropy: npt.NDArray[np.float32]
    uncertainty: npt.NDArray[np.float32]
    cluster: npt.NDArray[np.int32]
    embeddings: npt.NDArray[np.floating]

    @classmethod
    def of(cls, scores: pd.DataFrame, embeddings: npt.NDArray[np.floating], cluster: npt.NDArray[np.int32]) -> _Tiles:
        entropy = scores["entropy"].to_numpy(dtype=np.float32)
        known = "confidence" in scores
        uncertainty = 1 - scores["confidence"].to_numpy(dtype=np.float32) if known else entropy
        return cls(scores["tile_id"].to_numpy(dtype=object), entropy, uncertainty, cluster, embeddings)

    def by_id(self, rows: Ints) -> Ints:
        return rows[np.argsort(self.tile_ids[rows], kind="stable")]

    def at_random(self, rows: Ints, seed: int) -> Ints:
        """In an order drawn from seed and tile id alone, so that the order of rows does not matter."""
        draws = (seed_of(seed, str(tile), 0) for tile in self.tile_ids[rows])
        return rows[np.argsort(np.fromiter(draws, dtype=np.int64, count=len(rows)), kind="stable")]


_BY_QUOTA = ("s5", "s5_band", "diversity")
_HOW = {
    "s5": "by lowest entropy",
    "s5_band": "by lowest entropy",
    "diversity": "at random",
    "entropy": "by lowest entropy of all tiles",
    "random": "at random of all tiles",
    "badge": "by BADGE: uncertain and unlike the others taken",
    "k_centre": "as far from all labelled and taken tiles",
}


def _lower_bound(config: SamplingConfig, entropy: npt.NDArray[np.float32]) -> float | None:
    """The entropy below which no tile is taken."""
    finite = entropy[np.isfinite(entropy)]
    if config.strategy != "s5_band" or config.min_entropy is not None or len(finite) == 0:
        return config.min_entropy
    place = int(config.band * len(finite))
    return float(np.partition(finite, place)[place])


def _by_quota(
    config: SamplingConfig, tiles: _Tiles, usable: Ints, labeled: Ints, workers: int
) -> tuple[list[ClusterPass], Ints]:
    wanted = tiles.at_random(usable, config.seed) if config.strategy == "diversity" else usable
    passes = [ClusterPass(rows) for rows in _by_cluster(wanted, tiles.cluster, len(labeled))]
    weights = quota_weights(labeled, config.quota, config.temperature)
    budget = min(config.budget, len(usable))
    return passes, fill_clusters(passes, weights, budget, tiles.embeddings, config.max_similarity, workers)


def _without_quotas(
    config: SamplingConfig,
    tiles: _Tiles,
    usable: Ints,
    labeled_embeddings: npt.NDArray[np.floating],
    num_clusters: int,
) -> tuple[list[ClusterPass], Ints]:
    """What a strategy takes from all tiles at once, sorted into clusters, and how many these are."""
    budget = min(config.budget, len(usable))
    if config.strategy == "entropy":
        taken = usable[:budget]
    elif config.strategy == "random":
        taken = tiles.at_random(usable, config.seed)[:budget]
    else:
        rows = tiles.by_id(usable)
        directions, _ = unit_rows(tiles.embeddings[rows])
        if config.strategy == "k_centre":
            labeled, known = unit_rows(labeled_embeddings)
            taken = rows[k_centre(directions, labeled[known], budget)]
        else:
            taken = rows[badge(directions, tiles.uncertainty[rows], budget, seed=config.seed)]
    passes = _as_passes(taken, usable, tiles.cluster, num_clusters)
    return passes, np.array([len(state.taken) for state in passes], dtype=np.int64)


def _as_passes(taken: Ints, usable: Ints, cluster: npt.NDArray[np.int32], num_clusters: int) -> list[ClusterPass]:
    """What was taken without quotas, as if each cluster had been gone through that far."""
    left = usable[~np.isin(usable, taken)]
    passes = []
    pairs = zip(_by_cluster(taken, cluster, num_clusters), _by_cluster(left, cluster, num_clusters), strict=True)
    for mine, others in pairs:
        passes.append(ClusterPass(np.concatenate([mine, others]), taken=mine.tolist(), examined=len(mine)))
    return passes


def _tables(
    tiles: _Tiles,
    reasons: npt.NDArray[np.object_],
    order: Ints,
    passes: list[ClusterPass],
    clusters: pd.DataFrame,
) -> Selection:
    taken = np.zeros(len(order), dtype=bool)
    taken[[row for state in passes for row in state.taken]] = True
    columns = {"tile_id": tiles.tile_ids, "cluster": tiles.cluster, "entropy": tiles.entropy, "reason": reasons}
    table = pd.DataFrame(columns).iloc[order].astype({"tile_id": str, "reason": str})
    table.insert(3, "entropy_rank", np.arange(1, len(table) + 1, dtype=np.int32))
    taken = taken[order]
    return Selection(
        pool=table[taken].reset_index(drop=True),
        clusters=clusters,
        dropped=table[~taken].drop(columns="entropy_rank").reset_index(drop=True),
    )


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
    reasons: npt.NDArray[np.object_],
    passes: list[ClusterPass],
    quotas: Ints,
    tile_ids: npt.NDArray[np.object_],
    config: SamplingConfig,
) -> None:
    """Write down for every tile of the passes why it was or was not taken."""
    how, by_quota = _HOW[config.strategy], config.strategy in _BY_QUOTA
    for cluster, (state, quota) in enumerate(zip(passes, quotas, strict=True)):
        filled = len(state.taken)
        for place, row in enumerate(state.taken, start=1):
            reasons[row] = f"place {place} of {filled} in cluster {cluster} {how}"
            if place > quota:
                reasons[row] += f", beyond its quota of {quota} because other clusters ran short"
        for row, original in zip(state.duplicates, state.originals, strict=True):
            reasons[row] = f"near duplicate of {tile_ids[original]}"
        left = state.candidates[state.examined :]
        if not by_quota:
            reasons[left] = "not among the tiles taken " + how
            continue
        before = "of lower entropy" if config.strategy != "diversity" else "drawn before"
        reasons[left] = f"cluster full: its {filled} places went to tiles {before}" if filled else _NO_QUOTA


_NO_QUOTA = "cluster full: its quota is 0"


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
