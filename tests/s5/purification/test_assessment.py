"""What is reported of pseudo-labels, against loops over pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from s5.data.transforms import Normalizer
from s5.engine import ComputeConfig, resolve_compute
from s5.purification.assessment import assess, near_boundary
from s5.types import BandStatistics, LabelSpace, Purified

LABELS = LabelSpace(("a", "b", "c"), ignore_index=9)
STATISTICS = BandStatistics(("r", "g", "b"), (0,) * 3, (1,) * 3, (0.0,) * 3, (1.0,) * 3)
CPU = resolve_compute(ComputeConfig(device="cpu", precision="fp32", threads=1))


class Tiles:
    """Logits are the image; evidence is whatever."""

    tile_ids: Sequence[str] = ("x", "y", "z")

    def __len__(self) -> int:
        return 3

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng(index)
        mask = np.kron(rng.integers(0, 3, (2, 2)), np.ones((6, 6))).astype(np.uint8)
        mask[rng.random((12, 12)) < 0.1] = LABELS.ignore_index
        return rng.normal(0, 2, (3, 12, 12)).astype(np.float32), mask, rng.random((12, 12)) < 0.9

    def read_maps(self, index: int) -> np.ndarray:
        return np.random.default_rng(index + 10).integers(0, 256, (4, 12, 12)).astype(np.uint8)


def rule(logits: torch.Tensor, evidence: torch.Tensor) -> Purified:
    probabilities = (logits + 2 * evidence[:, :-1]).softmax(1)
    return Purified(probabilities, *probabilities.max(1))


def test_every_number_equals_the_loop() -> None:
    tiles = Tiles()
    found = assess(
        lambda images: images,
        tiles,  # type: ignore[arg-type]
        tiles,  # type: ignore[arg-type]
        rule,
        LABELS,
        Normalizer(STATISTICS),
        tau=0.8,
        compute=CPU,
        batch_size=2,
    )
    pixels = []
    for index in range(3):
        image, mask, valid = tiles.read(index)
        logits, maps = torch.from_numpy(image), torch.from_numpy(tiles.read_maps(index)).float() / 255
        before, after = logits.softmax(0), (logits + 2 * maps[:-1]).softmax(0)
        for y in range(12):
            for x in range(12):
                window = mask[max(0, y - 3) : y + 4, max(0, x - 3) : x + 4]
                near = len(set(window.ravel().tolist()) - {LABELS.ignore_index}) > 1
                one = [(int(p[:, y, x].argmax()), float(p[:, y, x].max())) for p in (before, after)]
                pixels.append((int(mask[y, x]), bool(valid[y, x]), near, *one))
    valid_pixels = [p for p in pixels if p[1]]
    known = [p for p in valid_pixels if p[0] != LABELS.ignore_index]

    def right(chosen: list, which: int) -> float:
        return 100 * sum(p[which][0] == p[0] for p in chosen) / len(chosen)

    assert found["num_pixels"] == len(known)
    for name, which in (("before", 3), ("after", 4)):
        scores = found[name]
        assert scores["accuracy"] == pytest.approx(right(known, which))
        assert scores["boundary_accuracy"] == pytest.approx(right([p for p in known if p[2]], which))
        sure = [p for p in known if p[which][1] >= 0.8]
        assert scores["confident_accuracy"] == pytest.approx(right(sure, which))
        count = sum(p[which][1] >= 0.8 for p in valid_pixels)
        assert scores["confident_share"] == pytest.approx(100 * count / len(valid_pixels))
        per_class = [right([p for p in known if p[0] == k], which) for k in range(3)]
        assert list(scores["per_class"].values()) == pytest.approx(per_class)
        assert scores["macc"] == pytest.approx(sum(per_class) / 3)
    changes = {
        "relabelled": lambda p: p[3][0] != p[4][0],
        "raised": lambda p: p[4][1] > p[3][1],
        "lowered": lambda p: p[4][1] < p[3][1],
        "over_tau": lambda p: p[4][1] >= 0.8 > p[3][1],
        "under_tau": lambda p: p[3][1] >= 0.8 > p[4][1],
    }
    for name, holds in changes.items():
        share = 100 * sum(holds(p) for p in valid_pixels) / len(valid_pixels)
        assert found["shares"][name] == pytest.approx(share, abs=0.01)


def test_the_rim_of_a_tile_and_ignored_pixels_are_no_boundary() -> None:
    mask = torch.ones(1, 8, 8, dtype=torch.long)
    mask[0, 2, 2] = 255
    assert not near_boundary(mask, 3).any()
    mask[0, 7, 7] = 0
    assert near_boundary(mask, 3).sum() == 16  # 4 x 4 pixels, the corner with them
