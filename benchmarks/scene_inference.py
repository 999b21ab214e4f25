"""Maps of scenes: throughput against the bare forward pass over the same windows, and peak memory by scene size.

Throughput: windows read from a GeoTIFF, blended and written as strips, against the network alone on as many preloaded,
normalised batches under the same autocast; both in turn in one process, the ratio is the median over neighbouring runs.

Memory: each scene size in a process of its own, with a tiny network, through all products (GeoTIFF, polygons, areas).
Usage: python benchmarks/scene_inference.py [--size 2048] [--memory 10000 20000] [--no-polygons]
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from s5.data.transforms import Normalizer
from s5.engine import Compute, ComputeConfig, resolve_compute
from s5.geo.raster import RasterInfo, describe, write_blocks
from s5.inference import BlendGrid, Predictor, SceneConfig, SceneModel, map_scene, map_strips
from s5.models import create_model
from s5.types import BandStatistics, Window
from timing import paired

CLASSES = ("field", "forest", "water", "road", "building")
COLORS = ("#F2CE49", "#0B4F26", "#2F7FD6", "#3F3F46", "#E4512E")
STATISTICS = BandStatistics(("red", "green", "blue"), (0.0,) * 3, (255.0,) * 3, (0.5,) * 3, (0.2,) * 3)
BLOCK = 512


def write_scene(path: Path, size: int) -> None:
    """A GeoTIFF of patches of some 100 pixels with noise, in blocks, so that it takes no memory to make."""
    rng = np.random.default_rng(0)
    patches = rng.integers(30, 220, (3, size // 100 + 8, size // 100 + 8)).astype(np.uint8)

    def blocks() -> Iterator[tuple[Window, np.ndarray]]:
        noise = rng.integers(0, 24, (3, BLOCK, BLOCK)).astype(np.uint8)
        for row in range(0, size, BLOCK):
            for col in range(0, size, BLOCK):
                height, width = min(BLOCK, size - row), min(BLOCK, size - col)
                y, x = np.arange(row, row + height)[:, None], np.arange(col, col + width)[None]
                y, x = y + (8 * np.sin(x / 37)).astype(int) + 16, x + (8 * np.sin(y / 29)).astype(int) + 16
                yield Window(row, col, height, width), patches[:, y // 100, x // 100] + noise[:, :height, :width]

    transform = (0.5, 0.0, 500_000.0, 0.0, -0.5, 5_300_000.0)
    write_blocks(path, RasterInfo(size, size, 3, "uint8", "EPSG:32632", transform), blocks())


class TinyNetwork(nn.Module):
    """A convolution of stride 8 and its answer enlarged again."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.body = nn.Conv2d(3, len(CLASSES), 8, stride=8)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        coarse = self.body(images)
        return nn.functional.interpolate(8 * coarse, images.shape[-2:], mode="bilinear")


def throughput(args: argparse.Namespace, compute: Compute) -> None:
    config = SceneConfig(window=args.window, overlap=args.window // 4, batch_size=args.batch)
    grid = BlendGrid(args.size, args.size, config.window, config.overlap, config.trimmed)
    model = create_model(args.encoder, args.decoder, classes=len(CLASSES), decoder_channels=64)
    predict = Predictor(model, STATISTICS, device=compute.device)
    raw = torch.randint(0, 255, (args.batch, 3, args.window, args.window), dtype=torch.uint8, device=compute.device)
    ready = Normalizer(STATISTICS, compute.device)(raw)
    windows = len(grid.windows)
    with tempfile.TemporaryDirectory() as name:
        write_scene(Path(name) / "scene.tif", args.size)
        rounds = 0

        def ours() -> None:
            nonlocal rounds
            rounds += 1
            strips = Path(name) / f"strips_{rounds}"
            map_strips(
                Path(name) / "scene.tif", strips, grid, predict, bands=3, classes=len(CLASSES), config=config,
                compute=compute,
            )  # fmt: skip

        def bare() -> None:
            for start in range(0, windows, args.batch):
                with torch.inference_mode(), compute.autocast():
                    model(ready[: min(args.batch, windows - start)])

        seconds, bare_seconds, ratio = paired(ours, bare, rounds=args.rounds)
    print(
        f"scene inference, {args.encoder} + {args.decoder}, {args.size} x {args.size} pixels in {windows} windows of "
        f"{args.window}, {compute.device}, {compute.precision}"
    )
    print(
        f"  mapping {windows / seconds:.1f} windows/s ({args.size**2 / seconds / 1e6:.1f} Mpx/s), bare forward "
        f"{windows / bare_seconds:.1f} windows/s, ratio {ratio:.1%} (bar: 85 %)"
    )


def peak_memory(scene: Path, polygons: bool) -> None:
    """Map a scene in this process, which has done nothing else, and print what that took."""
    model = SceneModel(TinyNetwork(), CLASSES, STATISTICS, COLORS, "tiny")
    before = memory_now()
    start = time.perf_counter()
    map_scene(scene, scene.parent / "out", model, SceneConfig(polygons=polygons), ComputeConfig())
    seconds = time.perf_counter() - start
    pixels = describe(scene).height * describe(scene).width
    print(
        f"    peak {memory_peak() / 1e9:.2f} GB resident (imports {before / 1e9:.2f} GB), {seconds:.0f} s, "
        f"{pixels / seconds / 1e6:.1f} Mpx/s",
        flush=True,
    )


def memory_now() -> int:
    return _status("VmRSS")


def memory_peak() -> int:
    return _status("VmHWM")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--decoder", default="upernet")
    parser.add_argument("--size", type=int, default=2048, help="side of the scene of the throughput; 0 leaves it out")
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", type=int, nargs="*", default=[], help="sides of scenes whose peak memory is told")
    parser.add_argument("--no-polygons", action="store_true")
    parser.add_argument("--alone", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    compute = resolve_compute(ComputeConfig())
    if args.alone:
        peak_memory(args.alone, not args.no_polygons)
        return
    if args.size:
        throughput(args, compute)
    if args.memory:
        print(f"peak memory of a scene, tiny network, all products{' but polygons' * args.no_polygons}", flush=True)
    for size in args.memory:
        flags = ["--no-polygons"] if args.no_polygons else []
        with tempfile.TemporaryDirectory() as folder:
            scene = Path(folder) / "scene.tif"
            write_scene(scene, size)
            print(f"  {size} x {size}", flush=True)
            subprocess.run([sys.executable, __file__, "--alone", str(scene), *flags], check=True)


if __name__ == "__main__":
    main()
