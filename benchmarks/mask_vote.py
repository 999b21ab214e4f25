"""What the vote of masks does to evidence, if the masks were the true regions: a bound for SAM, which is not run here.

Evidence is made from the truth of the demo world's val tiles: shares of the classes in blocks, some blocks wrong, a
tenth of everything unknown. Masks are the connected pieces of the classes, all of them or every second one by lot.
Usage: python benchmarks/mask_vote.py [--votes 0.6 0.75] [--reach 8]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from s5.data.demo import DemoConfig, make_demo_world
from s5.data.ingest import IngestionConfig, ingest
from s5.data.loader import SegmentationData
from s5.purification.assessment import near_boundary
from s5.purification.config import MaskConfig
from s5.purification.refinement import vote

SMALLEST = 30  # pixels of a mask


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--votes", type=float, nargs="+", default=[0.6, 0.75])
    parser.add_argument("--reach", type=int, default=8)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        truths = true_masks(Path(folder))
    print(f"{len(truths)} tiles; pixels right in % of all, and of those within 3 pixels of another class")
    for block in (4, 8, 16):
        for wrong in (0.0, 0.15):
            print(f"blocks of {block} px, {wrong:.0%} wrong: {row(truths, block, wrong, args.votes, args.reach)}")


def true_masks(folder: Path) -> list[tuple[Tensor, int]]:
    """Masks int64 [H, W] of the val tiles of the demo world of seed 0, with the number of classes."""
    card = make_demo_world(folder / "world", DemoConfig(seed=0, unlabeled_scenes=1, defects=False))
    found = ingest(card, IngestionConfig(tile_size=128), seed=0, work_dir=folder)
    data = SegmentationData(found.manifest, found.statistics, found.labels, tile_size=128)
    tiles, num_classes = data.split("val"), data.labels.num_classes
    masks = [torch.from_numpy(np.where(v, m, 255).astype(np.int64)) for _, m, v in map(tiles.read, range(len(tiles)))]
    return [(mask, num_classes) for mask in masks]


def row(truths: Sequence[tuple[Tensor, int]], block: int, wrong: float, votes: Sequence[float], reach: int) -> str:
    counts: dict[str, Tensor] = {}
    for seed, (truth, num_classes) in enumerate(truths):
        generator = torch.Generator().manual_seed(seed)
        evidence = made_up(truth, num_classes, block, wrong, generator)
        masks = regions(truth, num_classes)
        some = masks[torch.rand(len(masks), generator=generator) < 0.5]
        refined = {"as it was": evidence}
        for share in votes:
            config = MaskConfig(vote=share, reach=reach)
            refined |= {f"all masks, vote {share}": vote(evidence, masks, config)}
            refined |= {f"half of them, vote {share}": vote(evidence, some, config)}
        for name, one in refined.items():
            known = truth < num_classes
            near, right = near_boundary(truth[None], num_classes)[0], one[:-1].argmax(0) == truth
            seen = torch.tensor([int(x.sum()) for x in (right & known, known, right & near, near)])
            counts[name] = counts.get(name, torch.zeros(4)) + seen
    return "; ".join(f"{name} {100 * n[0] / n[1]:.1f}, {100 * n[2] / n[3]:.1f}" for name, n in counts.items())


def made_up(truth: Tensor, num_classes: int, block: int, wrong: float, generator: torch.Generator) -> Tensor:
    """Evidence float32 [K + 1, H, W]."""
    shares = F.avg_pool2d(one_hot(truth.clamp(max=num_classes - 1), num_classes), block)
    size = shares.shape[1:]
    other = one_hot(torch.randint(num_classes, size, generator=generator), num_classes)
    shares = torch.where(torch.rand(size, generator=generator) < wrong, other, shares)
    coarse = torch.cat([0.9 * shares, torch.full((1, *size), 0.1)])
    return F.interpolate(coarse[None], truth.shape, mode="bilinear", align_corners=False)[0]


def one_hot(classes: Tensor, num_classes: int) -> Tensor:
    return F.one_hot(classes, num_classes).permute(2, 0, 1).float()


def regions(truth: Tensor, num_classes: int) -> Tensor:
    """The connected pieces of the classes, bool [N, H, W]."""
    pieces = [ndimage.label((truth == k).numpy()) for k in range(num_classes)]
    masks = [torch.from_numpy(labels == i) for labels, number in pieces for i in range(1, number + 1)]
    large = [mask for mask in masks if mask.sum() >= SMALLEST]
    return torch.stack(large) if large else torch.zeros(0, *truth.shape, dtype=torch.bool)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
