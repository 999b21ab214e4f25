"""Boundary IoU against its definition, pixel by pixel (Cheng et al., CVPR 2021)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_erosion

from s5.metrics import BoundaryCounts, boundary_scores
from s5.metrics.boundary import boundary_of, boundary_width


def brute_force(pred: np.ndarray, truth: np.ndarray, width: int, classes: int) -> np.ndarray:
    """Intersection and union of both boundaries of each class, by looking around every pixel."""
    height, across = truth.shape
    counts = np.zeros((2, classes), dtype=int)

    def on_boundary(of: np.ndarray, index: int, row: int, col: int) -> bool:
        if of[row, col] != index or truth[row, col] == 255:
            return False
        for r in range(row - width, row + width + 1):
            for c in range(col - width, col + width + 1):
                outside = not (0 <= r < height and 0 <= c < across)
                if outside or (truth[r, c] != 255 and of[r, c] != index):
                    return True
        return False

    for index in range(classes):
        for row in range(height):
            for col in range(across):
                a, b = on_boundary(truth, index, row, col), on_boundary(pred, index, row, col)
                counts[0, index] += a and b
                counts[1, index] += a or b
    return counts


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000), height=st.integers(1, 9), across=st.integers(1, 9), width=st.integers(1, 3))
def test_counts_equal_the_definition(seed: int, height: int, across: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    truth = np.kron(rng.integers(0, 3, (height, across)), np.ones((2, 2))).astype(np.uint8)
    pred = np.where(rng.random(truth.shape) < 0.8, truth, rng.integers(0, 3, truth.shape)).astype(np.uint8)
    truth[rng.random(truth.shape) < 0.1] = 255
    counts = BoundaryCounts(3, ratio=width / np.hypot(*truth.shape))
    assert boundary_width(*truth.shape, counts.ratio) == width
    counts.update(torch.from_numpy(pred)[None], torch.from_numpy(truth)[None])
    np.testing.assert_array_equal(counts.counts.numpy(), brute_force(pred, truth, width, 3))


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000), width=st.integers(1, 4))
def test_a_boundary_is_what_repeated_erosion_takes_away(seed: int, width: int) -> None:
    """The papers' code: the mask minus its erosion by 3 x 3, `width` times, with nothing outside of the image."""
    inside = np.kron(np.random.default_rng(seed).random((5, 6)) < 0.7, np.ones((3, 3))).astype(bool)
    eroded = binary_erosion(inside, np.ones((3, 3)), iterations=width, border_value=0)
    ours = boundary_of(torch.from_numpy(inside)[None], torch.zeros(1, *inside.shape, dtype=torch.bool), width)
    np.testing.assert_array_equal(ours[0].numpy(), inside & ~eroded)


def test_scores_by_hand() -> None:
    truth = torch.zeros(1, 8, 8, dtype=torch.long)
    truth[:, :, 4:] = 1
    pred = torch.zeros(1, 8, 8, dtype=torch.long)
    pred[:, :, 5:] = 1
    counts = BoundaryCounts(3, ratio=1 / np.hypot(8, 8))
    counts.update(pred, truth)
    scores = boundary_scores(counts.counts, ["left", "right", "nowhere"])
    # A frame of one pixel. Left, true: 4 x 8 without the inner 2 x 6: 20; predicted: 5 x 8 without 3 x 6: 22; both hold
    # all but column 3's inner six (true alone) and column 4 (predicted alone, eight): overlap 14, union 28.
    left, right = 100 * 14 / 28, 100 * 12 / 26
    assert scores["per_class_boundary_iou"] == pytest.approx({"left": left, "right": right, "nowhere": None})
    assert scores["boundary_miou"] == pytest.approx((left + right) / 2)
    assert boundary_scores(counts.counts, ["a", "b", "c"], ["a"])["boundary_miou"] == pytest.approx(right)
    assert boundary_scores(torch.zeros(2, 1), ["a"])["boundary_miou"] is None
