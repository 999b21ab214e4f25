"""The losses of 20 steps of every method, kept as numbers: a change of the code that should change none changes none.

`tests/golden/losses.json` was made in float32 on one thread of an AMD EPYC with AVX2, with torch 2.15: "supervised" and
"fixmatch, ..." with the thresholds fixed, per_class and share by the code as it was before there was a second method
(9cf4455), the others by the code that brought them; all of S4P's were made anew when CutMix began to take its partners
in pairs, which alone changed them. Where a change of losses is wanted, they are made anew by
`python tests/s5/semisup/test_golden_losses.py [NAME ...]`, all of them without a name. Other CPUs round otherwise,
hence a tolerance of 1e-4; without AVX2 the difference was 2e-7.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from s5.data.transforms import Normalizer
from s5.engine import Compute, ComputeConfig, resolve_compute
from s5.engine.loop import Method
from s5.finetuning import SupervisedConfig
from s5.finetuning.supervised import Supervised
from s5.models import SegmentationModel, create_model
from s5.seeds import seed_of
from s5.semisup import S4PConfig
from s5.semisup.s4p import S4P
from s5.types import BandStatistics, LabelSpace

GOLDEN = Path(__file__).parents[2] / "golden" / "losses.json"
STEPS = 20
LABELS = LabelSpace(("roof", "tree", "lake"))
STATISTICS = BandStatistics(("r", "g", "b"), (0,) * 3, (255,) * 3, (0.4,) * 3, (0.25,) * 3)
COMMON: dict[str, Any] = {
    "steps": STEPS,
    "batch_size": 4,
    "ema_decay": 0.8,
    "class_balance": 0.5,
    "optimizer": {"lr": 1e-3},
    "augmentation": {"crop": 48, "scale": (0.75, 1.5)},
}
SUPERVISED: dict[str, dict[str, Any]] = {
    "supervised": {},
    "supervised, ohem": {"labeled_loss": "ohem", "ohem": {"threshold": 0.4}},
    "supervised, ce_dice": {"labeled_loss": "ce_dice"},
}
S4P_RUNS: dict[str, dict[str, Any]] = {
    "fixmatch, ema": {"teacher": "ema"},
    "fixmatch, self": {"teacher": "self"},
    "fixmatch, per_class": {"pseudo_labels": {"tau": 0.5, "threshold": "per_class"}},
    "fixmatch, share": {"pseudo_labels": {"tau": 0.4, "threshold": "share"}},
    # a momentum at which no pixel comes so near to its threshold that another CPU might decide otherwise
    "fixmatch, freematch": {"pseudo_labels": {"threshold": "freematch", "momentum": 0.85}},
    "fixmatch, softmatch": {"pseudo_labels": {"threshold": "softmatch", "momentum": 0.9}},
    "fixmatch, softmatch aligned": {
        "pseudo_labels": {"threshold": "softmatch", "momentum": 0.9, "uniform_alignment": True}
    },
    "mean_teacher, mse": {"method": "mean_teacher", "lambda_u": 10.0},
    "mean_teacher, kl": {"method": "mean_teacher", "mean_teacher": {"distance": "kl"}},
    "unimatch_v2": {"method": "unimatch_v2"},
}


class Tiles:
    """Squares of three classes under noise, with some pixels unlabelled and a corner without data."""

    def __init__(self, count: int, stream: int) -> None:
        self.count, self.stream = count, stream

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.Generator(np.random.PCG64([self.stream, index]))
        mask = np.kron(rng.integers(0, 3, (4, 4)), np.ones((16, 16))).astype(np.uint8)
        colours = np.array([[170, 80, 70], [80, 150, 90], [70, 80, 160]])
        image = colours[mask].transpose(2, 0, 1) + rng.integers(-60, 60, (3, 64, 64))
        valid = np.ones((64, 64), bool)
        valid[: rng.integers(0, 20), : rng.integers(0, 20)] = False
        mask[(rng.random((64, 64)) < 0.05) | ~valid] = LABELS.ignore_index
        return image.clip(0, 255).astype(np.uint8), mask, valid


def network() -> SegmentationModel:
    torch.manual_seed(0)
    options = {"width": 24, "depth": 4, "heads": 3}
    model = create_model("s5_vit", "light", classes=3, decoder_channels=16, image_size=48, encoder_options=options)
    return model.to(memory_format=torch.channels_last)


def method(name: str, compute: Compute) -> Method:
    normalizer = Normalizer(STATISTICS)
    if name in SUPERVISED:
        config = SupervisedConfig(**COMMON, **SUPERVISED[name])
        return Supervised(network(), Tiles(6, 1), normalizer, LABELS, config, compute, seed=0)
    s4p = S4PConfig(**{**COMMON, "unlabeled_batch_size": 4, "pseudo_labels": {"tau": 0.4}, **S4P_RUNS[name]})
    return S4P(network(), Tiles(6, 1), Tiles(8, 2), normalizer, LABELS, s4p, compute, seed=0)


def losses(name: str) -> list[float]:
    one = method(name, resolve_compute(ComputeConfig(device="cpu", precision="fp32", threads=1)))
    found = []
    for step in range(STEPS):
        torch.manual_seed(seed_of(0, "golden", step))  # as the loop does, for dropout
        metrics: Mapping[str, torch.Tensor] = one.step(step, one.read(step))
        found.append(float(metrics["loss"]))
    return found


@pytest.mark.parametrize("name", [*SUPERVISED, *S4P_RUNS])
def test_losses_are_as_they_were(name: str) -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert losses(name) == pytest.approx(golden[name], rel=1e-4)


if __name__ == "__main__":
    golden = json.loads(GOLDEN.read_text(encoding="utf-8")) if GOLDEN.exists() else {}
    golden |= {name: losses(name) for name in sys.argv[1:] or [*SUPERVISED, *S4P_RUNS]}
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")
