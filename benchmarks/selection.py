"""Seconds and memory of selection over memory-mapped embeddings, from ten thousand to a million tiles.

40,000 labelled embeddings of 384 dimensions are clustered (k = 512, the best of four runs); unlabelled ones, made from
a fixed seed with one in 50 a near copy of another, are assigned, freed of near duplicates and picked by quota to a
tenth of their number. Each size runs in a process of its own, whose peak resident memory is read; the pool is the same
for 1 and 2 workers.
Usage: python benchmarks/selection.py [--sizes 10000 100000 1000000]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from s5.selection import SamplingConfig, sample_diverse

WIDTH, LABELED, CLUSTERS, PLACES = 384, 40_000, 512, 600
BLOCK = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 1])
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # of one measured run
    args = parser.parse_args()
    if args.folder is not None:
        measure(args.folder, args.sizes[0], args.workers[0])
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, max(args.sizes))
        print(f"{LABELED:,} labelled x {WIDTH}, k = {CLUSTERS}, pool of a tenth (bars at 1,000,000: 300 s, 3 GB)")
        for size in args.sizes:
            runs = [run(folder, size, workers) for workers in args.workers]
            for workers, found in zip(args.workers, runs, strict=True):
                print(
                    f"  {size:>9,} tiles, {workers} workers: {found['seconds']:6.1f} s, "
                    f"{found['memory'] / 2**30:.2f} GB resident, {found['kept']:,} kept, "
                    f"{found['duplicates']:,} near duplicates, pool {found['pool']}"
                )
            assert len({found["pool"] for found in runs}) == 1, "the pool depends on the number of workers"


def make(folder: Path, size: int) -> None:
    """Embeddings around common places, written block by block."""
    rng = np.random.default_rng(0)
    places = rng.normal(size=(PLACES, WIDTH)).astype(np.float32)
    for name, count in (("labeled", LABELED), ("unlabeled", size)):
        shape = (count, WIDTH)
        rows = np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=np.float16, shape=shape)
        for first in range(0, count, BLOCK):
            number = min(BLOCK, count - first)
            noise = rng.standard_normal((number, WIDTH), dtype=np.float32)
            block = places[rng.integers(0, PLACES, number)] + noise * rng.uniform(0.5, 1.5, (number, 1))
            copies = np.flatnonzero(rng.random(number) < 0.02)
            block[copies] = block[rng.integers(0, number, len(copies))] + 0.01 * noise[copies]
            rows[first : first + number] = block
        rows.flush()
    np.save(folder / "entropy.npy", rng.beta(2, 5, size).astype(np.float32))


def run(folder: Path, size: int, workers: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--folder", str(folder), "--sizes", str(size), "--workers", str(workers)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(folder: Path, size: int, workers: int) -> None:
    logging.disable(logging.WARNING)
    embeddings = np.load(folder / "unlabeled.npy", mmap_mode="r")[:size]
    labeled = np.load(folder / "labeled.npy", mmap_mode="r")
    scores = pd.DataFrame({"tile_id": [f"scene_{i // 100:06d}:{i % 100}" for i in range(size)]})
    scores["entropy"] = np.load(folder / "entropy.npy")[:size]
    config = SamplingConfig(budget=size // 10, clusters=CLUSTERS, max_similarity=0.98, workers=workers)
    start = time.perf_counter()
    found = sample_diverse(scores, embeddings, labeled, config)
    seconds = time.perf_counter() - start
    pool = hashlib.sha256("\n".join(found.pool["tile_id"]).encode()).hexdigest()[:12]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    kept, duplicates = len(found.pool), int(found.clusters["duplicates"].sum())
    found_all = {"seconds": seconds, "memory": memory, "kept": kept, "duplicates": duplicates, "pool": pool}
    print(json.dumps(found_all))


if __name__ == "__main__":
    main()
