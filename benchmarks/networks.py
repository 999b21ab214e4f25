"""ViT-B at 512 px, forward and training step: S5's networks against timm's ViT-B with smp's DPT.

Also against S5's own network with its attention written out in place of the fused kernel. Seconds are medians over
rounds in which all take turns in one process, ratios are medians over rounds; peak memory is that of a process of its
own (CPU), or of the allocator (GPU). Usage: python benchmarks/networks.py [--size 512] [--rounds 3]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from torch import nn

from s5.engine import Compute, ComputeConfig, resolve_compute
from s5.models import create_model
from s5.models.vit import Attention
from timing import seconds

CLASSES = 5


def s5(decoder: str, channels: int, size: int, *, fused: bool = True) -> nn.Module:
    model = create_model("s5_vit_b", decoder, classes=CLASSES, decoder_channels=channels, image_size=size)
    for module in model.modules():
        if isinstance(module, Attention):
            module.fused = fused
    return model


NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "S5, UPerNet": lambda size: s5("upernet", 256, size),
    "S5, UPerNet, attention written out": lambda size: s5("upernet", 256, size, fused=False),
    "S5, DPT": lambda size: s5("dpt", 256, size),
    "timm ViT-B, smp DPT": lambda size: smp.DPT(
        "tu-vit_base_patch16_224", encoder_weights=None, classes=CLASSES, dynamic_img_size=True, img_size=size
    ),
}


def work(network: nn.Module, compute: Compute, size: int, batch: int, *, train: bool) -> Callable[[], None]:
    """One forward pass, or one forward and backward pass and AdamW step, on tensors that are there already."""
    network.to(compute.device).to(memory_format=torch.channels_last).train(train)
    images = torch.randn(batch, 3, size, size, device=compute.device).to(memory_format=torch.channels_last)
    masks = torch.randint(0, CLASSES, (batch, size, size), device=compute.device)

    def forward() -> None:
        with torch.inference_mode(), compute.autocast():
            network(images)

    if not train:
        return forward
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5, fused=True)

    def step() -> None:
        with compute.autocast():
            logits = network(images)
        F.cross_entropy(logits.float(), masks).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def peak_mib(compute: Compute) -> float:
    if compute.device.type == "cuda":
        return torch.cuda.max_memory_allocated(compute.device) / 2**20
    # not getrusage: its maximum is inherited from the process that started this one
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def peak_of(name: str, args: argparse.Namespace, *, train: bool) -> float:
    command = [sys.executable, __file__, "--peak", name, "--size", str(args.size), "--batch", str(args.batch)]
    return float(subprocess.run([*command, *(["--train"] if train else [])], check=True, capture_output=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    compute = resolve_compute(ComputeConfig())
    if args.peak:
        work(NETWORKS[args.peak](args.size), compute, args.size, args.batch, train=args.train)()
        print(peak_mib(compute))
        return
    print(f"ViT-B, {args.batch} x {args.size} px, {compute.device}, {compute.precision}, torch {torch.__version__}")
    for train in (False, True):
        runs = {
            name: work(make(args.size), compute, args.size, args.batch, train=train) for name, make in NETWORKS.items()
        }
        for run in runs.values():
            run()
        rounds = [{name: seconds(run) for name, run in runs.items()} for _ in range(args.rounds)]
        first = next(iter(runs))
        print("training step" if train else "forward")
        for name in runs:
            took = statistics.median(r[name] for r in rounds)
            ratio = statistics.median(r[name] / r[first] for r in rounds)
            peak = peak_of(name, args, train=train)
            print(f"  {name:<36} {took:6.2f} s  {ratio:5.2f} x {first!r}  peak {peak:6.0f} MiB")


if __name__ == "__main__":
    main()
