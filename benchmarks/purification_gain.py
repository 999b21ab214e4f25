"""S4P with and without purification on the demo world, the evidence coming from a network trained on another one.

The labels behind the evidence are counted and printed. Trust is estimated on val, the checkpoint is chosen on val, mIoU
is that of test. Usage: python benchmarks/purification_gain.py [--folder DIR] [--seeds 0 1 2] [--steps 200]
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from s5.data.demo import DemoConfig, make_demo_world
from s5.data.ingest import IngestionConfig, ingest
from s5.data.loader import SegmentationData
from s5.data.transforms import Normalizer
from s5.engine import ComputeConfig, evaluate_model, resolve_compute
from s5.files import write_json
from s5.finetuning import SupervisedConfig
from s5.finetuning.supervised import train_supervised
from s5.metrics import segmentation_scores
from s5.models import ModelConfig, load_model, open_pointer
from s5.purification.assessment import assess
from s5.purification.calibration import calibrate, purifier_record, sample_pixels
from s5.purification.config import FitConfig, PriorConfig
from s5.purification.network import NetworkGrounder
from s5.purification.priors import ground_tiles, open_priors
from s5.purification.purifiers import make_purifier
from s5.semisup import S4PConfig, pretrain_s4p

MODEL = ModelConfig(encoder="resnet10t", decoder="light", decoder_channels=32)
CPU = ComputeConfig(threads=1)
RATE = {"optimizer": {"lr": 1e-3}, "augmentation": {"crop": 64, "scale": (0.75, 1.5)}, "validate_every": 50}
STRONG = {"strong": {"hue": 0.05, "saturation": 0.3, "gray": 0.1}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed-steps", type=int, default=150)
    parser.add_argument("--elsewhere-steps", type=int, default=300)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        run(args, args.folder or Path(temporary))


def run(args: argparse.Namespace, folder: Path) -> None:
    data = world(folder / "here", seed=0)
    weights, labels = network_of_elsewhere(folder, args.elsewhere_steps)
    print(f"evidence: a network trained on {labels} of a demo world of another seed", flush=True)
    grounder = NetworkGrounder(weights, data.labels.classes, resolve_compute(CPU))
    pool = data.split("unlabeled")
    rows = []
    for seed in args.seeds:
        began = time.perf_counter()
        row = {"seed": seed, **one_seed(args, folder, data, pool, grounder, seed)}
        rows.append(row)
        print(json.dumps({**row, "minutes": (time.perf_counter() - began) / 60}), flush=True)
    for key in ("miou", "pseudo"):
        without, with_ = ([row[f"{key}_{which}"] for row in rows] for which in ("without", "with"))
        gains = [b - a for a, b in zip(without, with_, strict=True)]
        print(
            f"{key}: {statistics.mean(without):.2f} without, {statistics.mean(with_):.2f} with, gain "
            f"{statistics.mean(gains):+.2f} ({', '.join(f'{gain:+.2f}' for gain in gains)})",
            flush=True,
        )


def world(folder: Path, seed: int) -> SegmentationData:
    """A small world of 80 unlabelled, 16 labelled, 40 val and 90 test tiles of 128 px."""
    card = make_demo_world(folder / "world", DemoConfig(seed=seed, unlabeled_scenes=1, defects=False))
    found = ingest(card, IngestionConfig(tile_size=128), seed=0, work_dir=folder)
    return SegmentationData(found.manifest, found.statistics, found.labels, tile_size=128)


def network_of_elsewhere(folder: Path, steps: int) -> tuple[Path, str]:
    """A network trained on all tiles of another world's unlabelled split, whose truth is known; kept in the folder."""
    kept = folder / "elsewhere.json"
    if kept.exists():
        pointer, labels = json.loads(kept.read_text(encoding="utf-8"))
        return open_pointer(pointer, folder), labels
    other = world(folder / "elsewhere", seed=7)
    manifest = other.manifest[other.manifest["split"].isin(["unlabeled", "val"])].copy()
    manifest.loc[manifest["split"] == "unlabeled", "split"] = "labeled"
    there = replace(other, manifest=manifest)
    config = SupervisedConfig(steps=steps, batch_size=8, **RATE, **STRONG)
    result = train_supervised(there, MODEL, config, CPU, name="elsewhere", project=folder, seed=0)
    tiles = there.split("labeled")
    pixels = sum(int((tiles.read(i)[1] != other.labels.ignore_index).sum()) for i in range(len(tiles)))
    print(f"elsewhere: val mIoU there {result.pointer['val_miou']:.1f}", flush=True)
    labels = f"{len(tiles)} labelled tiles ({pixels:,} pixels)"
    write_json(kept, [result.pointer, labels])
    return open_pointer(result.pointer, folder), labels


def one_seed(
    args: argparse.Namespace, folder: Path, data: SegmentationData, pool: Any, grounder: NetworkGrounder, seed: int
) -> dict[str, Any]:
    compute = resolve_compute(CPU)
    supervised = SupervisedConfig(steps=args.seed_steps, batch_size=8, **RATE, **STRONG)
    seed_model = train_supervised(data, MODEL, supervised, CPU, name="seed", project=folder, seed=seed).pointer
    teacher = load_model(open_pointer(seed_model, folder))[0].eval()
    normalizer = Normalizer(data.statistics, compute.device)
    found = {}
    for split in ("val", "unlabeled"):
        tiles = data.split(split)
        root = folder / "priors" / split
        grounded = ground_tiles(tiles, grounder, data.statistics, root, PriorConfig(), classes=data.labels.classes)
        found[split] = (tiles, open_priors(grounded.file, tiles.tile_ids), grounded)
    tiles, priors, _ = found["val"]
    samples = sample_pixels(teacher, tiles, priors, data.labels, normalizer, FitConfig(), seed=seed, compute=compute)
    calibration = calibrate(samples)
    path = str(found["unlabeled"][2].file.relative_to(folder))
    purifier = make_purifier(purifier_record("calibrated", path, data.labels, calibration, {}), folder)
    tiles, priors, grounded = found["unlabeled"]
    rule = purifier.rule(compute.device)
    report = assess(teacher, tiles, priors, rule, data.labels, normalizer, tau=0.95, compute=compute)
    config = S4PConfig(steps=args.steps, batch_size=8, unlabeled_batch_size=8, **RATE, **STRONG)
    ids = list(pool.tile_ids)
    scores = {}
    for which, one in (("without", None), ("with", purifier)):
        result = pretrain_s4p(
            data, ids, MODEL, config, CPU, name="s4p", project=folder, seed=seed, init=seed_model, purifier=one
        )
        model = load_model(open_pointer(result.pointer, folder))[0]
        matrix = evaluate_model(
            model, data.split("test"), data.statistics, data.labels, batch_size=8, compute=compute
        ).matrix
        scores[f"miou_{which}"] = float(segmentation_scores(matrix, data.labels.classes)["miou"])
        scores[f"val_{which}"] = result.pointer["val_miou"]
        judged = [r["pseudo_accuracy"] for r in result.history[-50:] if not math.isnan(r["pseudo_accuracy"])]
        scores[f"last_pseudo_{which}"] = statistics.mean(judged) if judged else None
        scores[f"last_confident_{which}"] = statistics.mean(r["confident_share"] for r in result.history[-50:])
    return {
        "pseudo_without": report["before"]["accuracy"],
        "pseudo_with": report["after"]["accuracy"],
        **scores,
        "report": report,
        "trust": calibration.to_record(data.labels.classes)["trust"],
        "strength": calibration.strength,
        "teacher_temperature": calibration.teacher_temperature,
        "gain": [calibration.gain, calibration.error],
        "seconds_an_image": float(grounded.index["seconds"].mean()),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
