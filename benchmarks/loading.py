"""Input pipeline alone: tiles/s from files to what the networks take, ours against the papers' (benchmarks/papers.py).

A step's input is 8 labelled and 8 unlabelled crops, weak and strong with CutMix. Both read the same GeoTIFFs, on the
same cores, without a cache; ours also from shards, and with the reader's cache as a small data set has it.
Usage: python benchmarks/loading.py [--size 128] [--rounds 5]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from papers import papers_batches
from s5.data.loader import Batch, StepSampler, TileSource, read_ahead, read_batch
from s5.data.transforms import Normalizer, augment_geometry, augment_photometry, augment_some
from s5.seeds import Draws, torch_generator
from s5.semisup import S4PConfig
from s5.semisup.cutmix import draw_boxes, partners_of, paste
from timing import paired
from worlds import tiles_on_disk

BATCH = 8


def our_input(
    labeled: TileSource, unlabeled: TileSource, normalizer: Normalizer, config: S4PConfig, steps: int, threads: int
) -> Callable[[], None]:
    """What `s5.semisup.s4p.S4P` does before and between its passes."""
    samplers = [StepSampler(len(source), BATCH, seed=0, stream="x") for source in (labeled, unlabeled)]

    def read(step: int) -> list[Batch]:
        pairs = zip((labeled, unlabeled), samplers, strict=True)
        return [read_batch(source, sampler.indices(step)) for source, sampler in pairs]

    def weak(batch: Batch, drawn: Draws) -> torch.Tensor:
        moved = augment_geometry(
            batch.images, batch.masks, batch.valid, config.augmentation, ignore_index=255, drawn=drawn
        )
        return normalizer.scale(moved[0])

    def run() -> None:
        for step, (first, second) in enumerate(read_ahead(read, range(steps), depth=2, threads=threads)):
            drawn = Draws(torch_generator(0, "x", step))
            images = augment_some(weak(first, drawn), config.strong, config.photometry, drawn)
            unlabeled_weak = weak(second, drawn)
            boxes = draw_boxes(BATCH, *images.shape[2:], config.cutmix, drawn)
            strong = paste(augment_photometry(unlabeled_weak, config.strong, drawn), boxes, partners_of(BATCH))
            normalizer.ready(unlabeled_weak)
            normalizer.ready(torch.cat([images, strong]))

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=128, help="side of tiles and crops")
    parser.add_argument("--tiles", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2, help="that read; the papers' loaders have as many workers")
    args = parser.parse_args()
    config = S4PConfig(augmentation={"crop": args.size})
    print(f"Input of S4P steps, 8 + 8 crops of {args.size} px, {torch.get_num_threads()} cores")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        files, stats, _ = tiles_on_disk(folder, args.tiles, args.size, masks=True)
        shards, _, _ = tiles_on_disk(folder, args.tiles, args.size, masks=True, shards=True)
        cached, _, _ = tiles_on_disk(folder, args.tiles, args.size, masks=True, cache_mb=256)
        names = [[folder / f"{i}{what}.tif" for i in range(args.tiles)] for what in ("", "_mask")]

        def theirs() -> None:
            for _ in papers_batches(*names, crop=args.size, batch=BATCH, steps=args.steps, workers=args.threads):
                pass

        for what, source in (("GeoTIFFs", files), ("shards", shards), ("cache", cached)):
            ours = our_input(source, source, Normalizer(stats), config, args.steps, args.threads)
            seconds, papers_seconds, ratio = paired(ours, theirs, rounds=args.rounds)
            rates = [2 * BATCH * args.steps / one for one in (seconds, papers_seconds)]
            print(
                f"  from {what:<9} {rates[0]:6.0f} tiles/s, per-image PIL {rates[1]:6.0f} tiles/s, "
                f"ratio {ratio:.2f} (bar: 3)"
            )


if __name__ == "__main__":
    main()
