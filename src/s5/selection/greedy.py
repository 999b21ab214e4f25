"""The greedy pass of S5: a cluster's tiles in ascending order of entropy, near duplicates taken once."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from s5.selection.diversity import (
    COSINE_TOLERANCE,
    Floats,
    Ints,
    in_threads,
    largest_remainder,
    one_thread_each,
    unit_rows,
)

_LARGEST_BLOCK = 1024


@dataclass
class ClusterPass:
    """How far the pass has come in one cluster; it can be taken further when other clusters run short.

    Args:
        candidates: Row numbers of the cluster's tiles in the order in which they are wanted.
        taken, duplicates, originals: Row numbers of the tiles taken, of those left out as near duplicates, and of
            the taken tile that each of the latter is like (the first taken where there are several).
        examined: How many candidates have been decided on.
    """

    candidates: Ints
    taken: list[int] = field(default_factory=list)
    duplicates: list[int] = field(default_factory=list)
    originals: list[int] = field(default_factory=list)
    examined: int = 0
    _directions: list[Floats] = field(default_factory=list)  # of the tiles taken, block by block

    @property
    def exhausted(self) -> bool:
        return self.examined == len(self.candidates)

    def advance(self, quota: int, embeddings: npt.NDArray[np.floating], max_similarity: float | None) -> None:
        """Go on until `quota` tiles are taken or no candidate is left.

        Costs candidates examined x tiles taken, in matrix products of at most 1024 x 1024.
        """
        if max_similarity is None:
            more = self.candidates[self.examined : self.examined + quota - len(self.taken)]
            self.taken += more.tolist()
            self.examined += len(more)
            return
        while len(self.taken) < quota and not self.exhausted:
            missing = quota - len(self.taken)
            block = self.candidates[self.examined : self.examined + min(_LARGEST_BLOCK, 32 + 2 * missing)]
            self._examine(block, missing, embeddings, max_similarity)

    def _examine(self, block: Ints, missing: int, embeddings: npt.NDArray[np.floating], max_similarity: float) -> None:
        directions, _ = unit_rows(embeddings[block])
        threshold = max_similarity + COSINE_TOLERANCE
        original = self._like_taken(directions, threshold)
        alike = directions @ directions.T > threshold
        chosen: list[int] = []
        place = -1
        for place in range(len(block)):
            if original[place] >= 0:
                continue
            chosen.append(place)
            if len(chosen) == missing:
                break
            later = np.flatnonzero(alike[place, place + 1 :]) + place + 1
            original[later[original[later] < 0]] = block[place]
        decided = original[: place + 1]
        self.taken += block[chosen].tolist()
        self.duplicates += block[: place + 1][decided >= 0].tolist()
        self.originals += decided[decided >= 0].tolist()
        self.examined += place + 1
        if chosen:
            self._directions.append(directions[chosen])

    def _like_taken(self, directions: Floats, threshold: float) -> Ints:
        """For each row the first taken tile whose cosine lies over `threshold`, or -1."""
        original = np.full(len(directions), -1, dtype=np.int64)
        first = 0
        for taken in self._directions:
            alike = directions @ taken.T > threshold
            found = alike.any(axis=1) & (original < 0)
            tiles = np.asarray(self.taken[first : first + len(taken)], dtype=np.int64)
            original[found] = tiles[alike[found].argmax(axis=1)]
            first += len(taken)
        return original


def fill_clusters(
    passes: list[ClusterPass],
    weights: npt.NDArray[np.float64],
    budget: int,
    embeddings: npt.NDArray[np.floating],
    max_similarity: float | None,
    workers: int = 1,
) -> Ints:
    """Fill every cluster to its quota, then share out among the others what short clusters could not take.

    Keeps the directions of the tiles taken where near duplicates are left out: 4 D bytes each.

    Args:
        passes: One a cluster; changed.
        weights: What the quotas are proportional to.
        budget: Tiles to take in all.
        embeddings: [N, D]; may be a memory map.
        max_similarity: Cosine over which two tiles are near duplicates; None takes all.
        workers: Threads; each cluster is gone through by one.

    Returns:
        int64 [k], the first quotas; they sum to `budget`.
    """
    quotas = largest_remainder(weights, budget)
    wanted = quotas.copy()
    while True:
        targets = list(zip(passes, wanted.tolist(), strict=True))
        with one_thread_each():
            in_threads(lambda target: target[0].advance(target[1], embeddings, max_similarity), targets, workers)
        filled = np.array([len(state.taken) for state in passes], dtype=np.int64)
        still_open = np.array([not state.exhausted for state in passes], dtype=bool)
        shortage = budget - int(filled.sum())
        if shortage == 0 or not still_open.any():
            return quotas
        wanted = filled
        wanted[still_open] += largest_remainder(weights[still_open], shortage)
