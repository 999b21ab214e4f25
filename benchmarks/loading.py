"""Input pipeline alone: tiles/s from files to what the networks take, ours against the papers' (benchmarks/papers.py).

A step's input is 8 labelled and 8 unlabelled crops, weak and strong with CutMix. Both read the same GeoTIFFs, on the
same cores, without a cache; ours also from shards, and with the reader's cache as a small data set has it.
Usage: python benchmarks/loading.py [--size 128] [--rounds 5]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from papers import papers_batches
from s5.data.loader import Batch, StepReader, StepSampler, TileSource, read_ahead, read_in_processes
from s5.data.transforms import Normalizer, augment_geometry, augment_photometry, augment_some
from s5.seeds import Draws, torch_generator
from s5.semisup import S4PConfig
from s5.semisup.cutmix import draw_boxes, partners_of, paste
from timing import paired
from worlds import tiles_on_disk

BATCH = 8


def our_input(
    source: TileSource, normalizer: Normalizer, config: S4PConfig, rounds: range, *, threads: int, processes: int
) -> Iterator[None]:
    """What `s5.semisup.s4p.S4P` does before and between its passes, a step at a time."""
    indices = StepSampler(len(source), BATCH, seed=0, stream="x").indices
    read = StepReader(((source, indices), (source, indices)))

    def weak(batch: Batch, drawn: Draws) -> torch.Tensor:
        moved = augment_geometry(
            batch.images, batch.masks, batch.valid, config.augmentation, ignore_index=255, drawn=drawn
        )
        return normalizer.scale(moved[0])

    if processes:
        reading = read_in_processes(read, rounds, processes=processes)
    else:
        reading = read_ahead(read, rounds, depth=2, threads=threads)
    for step, (first, second) in enumerate(reading):
        drawn = Draws(torch_generator(0, "x", step))
        images = augment_some(weak(first, drawn), config.strong, config.photometry, drawn)
        unlabeled_weak = weak(second, drawn)
        boxes = draw_boxes(BATCH, *images.shape[2:], config.cutmix, drawn)
        strong = paste(augment_photometry(unlabeled_weak, config.strong, drawn), boxes, partners_of(BATCH))
        normalizer.ready(unlabeled_weak)
        normalizer.ready(torch.cat([images, strong]))
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=128, help="side of tiles and crops")
    parser.add_argument("--tiles", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=128, help="of a round")
    parser.add_argument("--readers", type=int, default=2, help="threads or processes; the papers' loaders have as many")
    args = parser.parse_args()
    config = S4PConfig(augmentation={"crop": args.size})
    steps = (args.rounds + 2) * args.steps
    print(f"Input of S4P steps, 8 + 8 crops of {args.size} px, {torch.get_num_threads()} cores")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        files, stats, _ = tiles_on_disk(folder, args.tiles, args.size, masks=True)
        shards, _, _ = tiles_on_disk(folder, args.tiles, args.size, masks=True, shards=True)
        cached, _, _ = tiles_on_disk(folder, args.tiles, args.size, masks=True, cache_mb=256)
        names = [[folder / f"{i}{what}.tif" for i in range(args.tiles)] for what in ("", "_mask")]

        for what, source, processes in (
            ("GeoTIFFs, threads", files, 0),
            ("GeoTIFFs, processes", files, args.readers),
            ("shards, threads", shards, 0),
            ("shards, processes", shards, args.readers),
            ("cache, threads", cached, 0),
        ):
            # Readers that were started go on from round to round: to start them is no part of the rate.
            ours = our_input(source, Normalizer(stats), config, range(steps), threads=args.readers, processes=processes)
            theirs = papers_batches(*names, crop=args.size, batch=BATCH, steps=steps, workers=args.readers)
            seconds, papers_seconds, ratio = paired(
                partial(consume, ours, args.steps), partial(consume, theirs, args.steps), rounds=args.rounds
            )
            rates = [2 * BATCH * args.steps / one for one in (seconds, papers_seconds)]
            print(
                f"  from {what:<19} {rates[0]:6.0f} tiles/s, per-image PIL {rates[1]:6.0f} tiles/s, "
                f"ratio {ratio:.2f} (bar: 3)",
                flush=True,
            )


def consume(batches: Iterator[object], steps: int) -> None:
    for _ in range(steps):
        next(batches)


if __name__ == "__main__":
    main()
