"""What a purifier costs a step of S4P: with stored priors and without, in turn in one process, loading included.

Maps are as fine as the tiles (no grounder's are finer) and in random order on disk. Medians of neighbouring runs.
Usage: python benchmarks/purification.py [--encoder resnet18] [--rounds 9] [--steps 4]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from s5.data.loader import TilesWithMaps, read_ahead
from s5.data.transforms import Normalizer
from s5.engine import ComputeConfig, resolve_compute
from s5.models import create_model
from s5.purification import Calibrated, PriorConfig, ground_tiles
from s5.purification.purifiers import excess_of
from s5.semisup import S4PConfig
from s5.semisup.s4p import S4P
from timing import paired
from worlds import tiles_on_disk


class Soft:
    """Smooth evidence of every class in every pixel: what compresses worst."""

    def __init__(self, classes: int, size: int) -> None:
        self.key, self.shape = {"model": "soft"}, (classes + 1, size, size)

    def ground(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        return torch.randn(len(images_BCHW), *self.shape).mul(2).softmax(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--decoder", default="upernet")
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=4)
    args = parser.parse_args()
    compute = resolve_compute(ComputeConfig())
    with tempfile.TemporaryDirectory() as folder:
        source, stats, labels = tiles_on_disk(Path(folder), 64, args.crop, masks=True, cache_mb=256)
        k = labels.num_classes
        found = ground_tiles(source, Soft(k, args.crop), stats, Path(folder), PriorConfig(), classes=labels.classes)
        ratio = [[2.0 if v == i else 0.5 for i in range(k)] for v in range(k)]
        purifier = Calibrated(found.file, evidence_temperature=1.5, strength=1.0, excess=excess_of(ratio, [0.8] * k))
        steps = []
        for one in (purifier, None):
            model = create_model(args.encoder, args.decoder, classes=k, decoder_channels=64)
            model.to(compute.device).to(memory_format=torch.channels_last)
            tiles = source if one is None else TilesWithMaps(source, one.maps(source.tile_ids))
            normalizer, config = Normalizer(stats, compute.device), S4PConfig(augmentation={"crop": args.crop})
            steps.append(S4P(model, source, tiles, normalizer, labels, config, compute, seed=0, purifier=one))

        def run(method: S4P) -> None:
            for step, batches in enumerate(read_ahead(method.read, range(args.steps), depth=2)):
                method.step(step, batches)

        with_, without, ratio_ = paired(lambda: run(steps[0]), lambda: run(steps[1]), rounds=args.rounds)
        work = [(cpu_seconds(lambda: run(steps[0])), cpu_seconds(lambda: run(steps[1]))) for _ in range(args.rounds)]
    print(f"S4P step, {args.encoder} + {args.decoder}, 8 + 8 crops of {args.crop} px, {compute.device}, "
          f"{compute.precision}, maps {k + 1} x {args.crop} x {args.crop}")  # fmt: skip
    print(
        f"  with a purifier {1000 * with_ / args.steps:.0f} ms, without {1000 * without / args.steps:.0f} ms, "
        f"cost {1 / ratio_ - 1:+.1%} (bar: 5 %)"
    )
    own, plain = (statistics.median(one) for one in zip(*work, strict=True))
    cost = statistics.median(a / b for a, b in work) - 1
    print(f"  of processor time {1000 * own / args.steps:.0f} and {1000 * plain / args.steps:.0f} ms, cost {cost:+.1%}")


def cpu_seconds(work: Callable[[], None]) -> float:
    """Of all threads of this process: what a machine that others share measures more steadily."""
    start = time.process_time()
    work()
    return time.process_time() - start


if __name__ == "__main__":
    main()
