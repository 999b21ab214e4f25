"""Trust is estimated: the truth gets it all, noise gets none, and a class that cannot be seen is left alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from s5.purification.calibration import Calibration, Samples, calibrate, reliability
from s5.purification.purifiers import Calibrated, answers, excess_of

K, TILES, PIXELS = 4, 24, 200


def world(seed: int = 0, tiles: int = TILES) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Truth in patches, tile by tile, and a teacher that is right in about three quarters and too sure."""
    g = torch.Generator().manual_seed(seed)
    truth = torch.randint(0, K, (tiles, PIXELS // 20), generator=g).repeat_interleave(20, 1).flatten()
    tile = torch.arange(tiles).repeat_interleave(PIXELS)
    logits = 2.0 * F.one_hot(truth, K) + 1.7 * torch.randn(len(truth), K, generator=g)
    return 2 * logits.double(), truth, tile


def maps_of(said: torch.Tensor) -> torch.Tensor:
    """Evidence [N, K + 1] of answers, K being unknown."""
    return F.one_hot(said, K + 1).double()


def purify(calibration: Calibration, logits: torch.Tensor, evidence: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    excess = excess_of(calibration.reliability, calibration.trust)
    rule = Calibrated(Path("x"), calibration.evidence_temperature, calibration.strength, excess).rule(
        torch.device("cpu")
    )
    found = rule(logits.float().T[None, :, :, None], evidence.float().T[None, :, :, None])
    return found.classes[0, :, 0], found.confidence[0, :, 0]


def accuracy(classes: torch.Tensor, truth: torch.Tensor) -> float:
    return 100 * float((classes == truth).double().mean())


def test_the_truth_is_trusted_and_makes_every_pseudo_label_right() -> None:
    logits, truth, tile = world()
    found = calibrate(Samples(logits, maps_of(truth), truth, tile))
    assert min(found.trust) > 0.5 and found.evidence_temperature == pytest.approx(1, abs=0.01)
    held_out, other_truth, _ = world(1)
    assert accuracy(held_out.argmax(1), other_truth) < 85
    classes, confidence = purify(found, held_out, maps_of(other_truth))
    assert accuracy(classes, other_truth) == 100
    assert float((confidence > 0.95).double().mean()) > 0.99


def noise(kind: str, g: torch.Generator) -> torch.Tensor:
    if kind == "soft":
        return torch.rand(TILES * PIXELS, K + 1, generator=g).double()
    if kind == "pixels":
        return maps_of(torch.randint(0, K, (TILES * PIXELS,), generator=g))
    return maps_of(torch.randint(0, K, (TILES,), generator=g).repeat_interleave(PIXELS))


@pytest.mark.parametrize("kind", ["pixels", "tiles", "soft"])
def test_noise_is_not_trusted(kind: str) -> None:
    """Also where a whole tile is said to be one class: pixels of a tile are not independent."""
    for seed in range(3):
        logits, truth, tile = world(seed)
        g = torch.Generator().manual_seed(seed + 100)
        found = calibrate(Samples(logits, noise(kind, g), truth, tile))
        held_out, other_truth, _ = world(seed + 10)
        classes, _ = purify(found, held_out, noise(kind, g))
        assert accuracy(classes, other_truth) > accuracy(held_out.argmax(1), other_truth) - 0.5


def test_a_class_that_the_model_cannot_see_is_left_alone() -> None:
    """It says class 1 wherever class 0 is, and is right everywhere else."""
    logits, truth, tile = world()
    blind = torch.where(truth == 0, 1, truth)
    found = calibrate(Samples(logits, maps_of(blind), truth, tile))
    held_out, other_truth, _ = world(1)
    classes, _ = purify(found, held_out, maps_of(torch.where(other_truth == 0, 1, other_truth)))
    unseen = other_truth == 0
    assert accuracy(classes[unseen], other_truth[unseen]) >= accuracy(held_out.argmax(1)[unseen], other_truth[unseen])
    seen = other_truth > 1
    assert accuracy(classes[seen], other_truth[seen]) > 99


def test_temperatures_are_those_that_made_the_samples() -> None:
    g = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(20000, K, generator=g).double()
    truth = torch.distributions.Categorical(logits=logits).sample()
    tile = torch.arange(20).repeat_interleave(1000)
    shares = logits.softmax(1)
    evidence = torch.cat([shares.pow(2) / shares.pow(2).sum(1, keepdim=True), torch.zeros(len(truth), 1)], 1)
    found = calibrate(Samples(3 * logits, evidence, truth, tile))
    assert found.teacher_temperature == pytest.approx(3, rel=0.05)
    assert found.evidence_temperature == pytest.approx(2, rel=0.1)


def test_reliability_equals_the_loop() -> None:
    rng = np.random.default_rng(0)
    said = answers(torch.from_numpy(rng.random((60, 3 + 1))), 1.0)
    truth, tile = (
        torch.from_numpy(rng.integers(0, 3, 60)),
        torch.arange(3).repeat_interleave(torch.tensor([10, 20, 30])),
    )
    weight = [1 / [10, 20, 30][int(t)] for t in tile]
    mean = [sum(weight[n] * float(said[n, v]) for n in range(60)) / 3 for v in range(3)]
    found = reliability(said, truth, tile)
    for v in range(3):
        for k in range(3):
            own = [n for n in range(60) if truth[n] == k]
            total = sum(weight[n] * float(said[n, v]) for n in own) + mean[v] / 16
            given = total / (sum(weight[n] for n in own) + 1 / 16)
            assert float(found[v, k]) == pytest.approx(given / mean[v], rel=1e-6)
