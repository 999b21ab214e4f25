"""Rotated NMS of 20,000 boxes, sparse and dense, beside shapely: python benchmarks/rotated_nms.py"""

from __future__ import annotations

import time

import numpy as np
import shapely
import torch

from s5.detection import rotated_nms, to_corners, to_le90

NUMBER = 20_000


def with_shapely(boxes: torch.Tensor, scores: torch.Tensor, threshold: float) -> int:
    """Greedy, box by box; candidates from an STR tree."""
    polygons = shapely.polygons(to_corners(boxes).numpy())
    tree, areas = shapely.STRtree(polygons), shapely.area(polygons)
    alive = np.ones(len(polygons), dtype=bool)
    kept = 0
    for i in np.argsort(-scores.numpy(), kind="stable"):
        if alive[i]:
            kept, alive[i] = kept + 1, False
            near = tree.query(polygons[i])
            near = near[alive[near]]
            shared = shapely.area(shapely.intersection(polygons[i], polygons[near]))
            alive[near[shared > threshold * (areas[i] + areas[near] - shared)]] = False
    return kept


def main() -> None:
    torch.set_num_threads(2)
    rng = np.random.default_rng(0)
    print(f"{'scene':>6} {'IoU':>4} {'kept':>6} {'s5':>7} {'shapely':>8}   seconds, {NUMBER:,} boxes of 5 to 40 px")
    for span, threshold in ((4000, 0.1), (1000, 0.1), (1000, 0.5), (300, 0.1), (300, 0.5)):
        sides = rng.uniform(10, 40, (NUMBER, 2)) * [1.0, 0.5]
        parts = [rng.uniform(0, span, (NUMBER, 2)), sides, rng.uniform(-1.5, 1.5, (NUMBER, 1))]
        boxes, scores = to_le90(torch.from_numpy(np.concatenate(parts, axis=1))), torch.from_numpy(rng.random(NUMBER))
        start = time.perf_counter()
        kept = len(rotated_nms(boxes, scores, threshold))
        middle = time.perf_counter()
        others = with_shapely(boxes, scores, threshold)
        end = time.perf_counter()
        assert kept == others, (kept, others)
        print(f"{span:>6} {threshold:>4} {kept:>6} {middle - start:>7.2f} {end - middle:>8.2f}")


if __name__ == "__main__":
    main()
