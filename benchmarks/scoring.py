"""Tiles/s of entropy scoring, tiles read from GeoTIFFs or from shards, against the bare forward pass of the network.

The bare pass runs on preloaded, normalised batches: the encoder and decoder under the same autocast, nothing else. Both
run in turn in one process; the ratio is the median over neighbouring runs. Usage: python benchmarks/scoring.py
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from pathlib import Path

import torch

from s5.data.transforms import Normalizer
from s5.engine import ComputeConfig, resolve_compute
from s5.models import create_model
from s5.selection import ScoringConfig, score_tiles
from timing import paired
from worlds import tiles_on_disk

BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--decoder", default="upernet")
    parser.add_argument("--tiles", type=int, default=192)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--shards", action="store_true", help="read the tiles from tar shards")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    compute = resolve_compute(ComputeConfig())
    with tempfile.TemporaryDirectory() as folder:
        reader, statistics, labels = tiles_on_disk(Path(folder), args.tiles, args.size, shards=args.shards)
        model = create_model(args.encoder, args.decoder, classes=labels.num_classes, decoder_channels=64).eval()
        model.to(compute.device).to(memory_format=torch.channels_last)
        normalize = Normalizer(statistics, compute.device)
        raw = torch.randint(0, 255, (BATCH, 3, args.size, args.size), dtype=torch.uint8, device=compute.device)
        ready = normalize(raw)

        def ours() -> None:
            score_tiles(model, reader, statistics, labels, ScoringConfig(batch_size=BATCH))

        def bare() -> None:
            for _ in range(args.tiles // BATCH):
                with torch.inference_mode(), compute.autocast():
                    model(ready)

        seconds, bare_seconds, ratio = paired(ours, bare, rounds=args.rounds)
    source = "shards" if args.shards else "GeoTIFFs"
    print(
        f"scoring from {source}, {args.encoder} + {args.decoder}, {args.size} px, {compute.device}, {compute.precision}"
    )
    print(
        f"  scoring {args.tiles / seconds:.0f} tiles/s, bare forward {args.tiles / bare_seconds:.0f} tiles/s, "
        f"ratio {ratio:.1%} (bar: 85 %)"
    )


if __name__ == "__main__":
    main()
