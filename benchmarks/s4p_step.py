"""S4P steps/s of the engine, loading and augmentation included, against two references.

The bare maths runs on preloaded tensors: teacher forward, student forward and backward, AdamW, EMA, nothing else. The
papers' step (benchmarks/papers.py) loads as well, both from the same files, without a cache. They run in turn in one
process; medians of the ratio of neighbouring runs. Usage: python benchmarks/s4p_step.py [--only bare|papers]
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F

from papers import PapersStep, papers_batches
from s5.data.loader import read_ahead
from s5.data.transforms import Normalizer
from s5.engine import ComputeConfig, resolve_compute
from s5.models import create_model
from s5.semisup import S4PConfig
from s5.semisup.s4p import S4P
from timing import paired
from worlds import tiles_in_memory, tiles_on_disk


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--decoder", default="upernet")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--only", choices=("bare", "papers"))
    args = parser.parse_args()
    if args.only != "papers":
        against_bare_maths(args)
    if args.only != "bare":
        against_papers(args)


def against_papers(args: argparse.Namespace, encoder: str = "vit_small_patch16_224", crop: int = 128) -> None:
    """The engine's step against the papers', both with loading: ViT-S + UPerNet, 8 + 8 crops."""
    compute = resolve_compute(ComputeConfig(read_threads=2))
    models = [
        create_model(encoder, "upernet", classes=5, decoder_channels=64, image_size=crop, checkpointing=checkpointing)
        for checkpointing in (False, True)
    ]
    for model in models:
        model.to(compute.device)
    models[0].to(memory_format=torch.channels_last)
    workers = 2 if compute.device.type == "cpu" else 8
    with tempfile.TemporaryDirectory() as folder:
        source, stats, labels = tiles_on_disk(Path(folder), 64, crop, masks=True)
        files = [Path(folder) / f"{i}.tif" for i in range(64)]
        masks = [Path(folder) / f"{i}_mask.tif" for i in range(64)]
        config = S4PConfig(teacher="self", ema_decay=0.0, augmentation={"crop": crop})
        method = S4P(models[0], source, source, Normalizer(stats, compute.device), labels, config, compute, seed=0)
        papers = PapersStep(models[1], compute)

        def ours() -> None:
            for step, batches in enumerate(read_ahead(method.read, range(args.steps), depth=2, threads=2)):
                method.step(step, batches)

        def theirs() -> None:
            for batches in papers_batches(files, masks, crop=crop, batch=8, steps=args.steps, workers=workers):
                papers(*batches)

        seconds, papers_seconds, ratio = paired(ours, theirs, rounds=args.rounds)
    images = 16 * args.steps
    print(
        f"S4P step, {encoder} + upernet, 8 + 8 crops of {crop} px, {compute.device}, {compute.precision}, with loading"
    )
    print(
        f"  engine {images / seconds:.1f} images/s, the papers' step {images / papers_seconds:.1f} images/s, "
        f"ratio {ratio:.2f} (bar: 1.8)"
    )


def against_bare_maths(args: argparse.Namespace) -> None:
    compute = resolve_compute(ComputeConfig())
    source, stats, labels = tiles_in_memory(count=64, size=256)
    config = S4PConfig()
    model = create_model(args.encoder, args.decoder, classes=labels.num_classes, decoder_channels=64)
    model.to(compute.device).to(memory_format=torch.channels_last)
    bare = BareStep(copy.deepcopy(model), compute, labels.num_classes)
    method = S4P(model, source, source, Normalizer(stats, compute.device), labels, config, compute, seed=0)

    def ours() -> None:
        for step, batches in enumerate(read_ahead(method.read, range(args.steps), depth=2)):
            method.step(step, batches)

    def maths() -> None:
        for _ in range(args.steps):
            bare.step()

    seconds, bare_seconds, ratio = paired(ours, maths, rounds=args.rounds)
    rate = [args.steps / seconds, args.steps / bare_seconds]
    print(f"S4P step, {args.encoder} + {args.decoder}, 8 + 8 crops of 128 px, {compute.device}, {compute.precision}")
    print(f"  engine {rate[0]:.2f} steps/s, bare maths {rate[1]:.2f} steps/s, ratio {ratio:.1%} (bar: 80 %)")


class BareStep:
    """Teacher and student forward, backward, optimiser and EMA on tensors that are there already."""

    def __init__(self, model: torch.nn.Module, compute: object, classes: int) -> None:
        self.model, self.teacher, self.compute = model, copy.deepcopy(model).eval(), compute
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        make = lambda n: torch.randn(n, 3, 128, 128, device=compute.device).to(memory_format=torch.channels_last)  # noqa: E731
        self.labeled, self.weak, self.strong = make(8), make(8), make(8)
        self.masks = torch.randint(0, classes, (8, 128, 128), device=compute.device)

    def step(self) -> None:
        with torch.no_grad(), self.compute.autocast():
            confidence, pseudo = self.teacher(self.weak).float().softmax(1).max(1)
        with self.compute.autocast():
            logits = self.model.train()(torch.cat([self.labeled, self.strong])).float()
        loss = F.cross_entropy(logits[:8], self.masks)
        loss = (loss + (F.cross_entropy(logits[8:], pseudo, reduction="none") * (confidence > 0.95)).mean()) / 2
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(list(self.teacher.parameters()), list(self.model.parameters()), 0.01)


if __name__ == "__main__":
    main()
