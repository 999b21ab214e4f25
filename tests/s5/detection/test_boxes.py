"""Rotated boxes, their IoU and their NMS, against shapely and closed forms."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shapely import Polygon

from s5.detection import (
    find_faults,
    from_corners,
    quad_iou,
    rotated_iou,
    rotated_iou_matrix,
    rotated_nms,
    to_corners,
    to_le90,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "dota_eval"
SIDE = st.floats(0.5, 80)
BOX = st.tuples(st.floats(-50, 50), st.floats(-50, 50), SIDE, SIDE, st.floats(-7, 7))


def random_boxes(number: int, span: float, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    parts = [rng.uniform(0, span, (number, 2)), rng.uniform(4, 30, (number, 2)), rng.uniform(-4, 4, (number, 1))]
    return torch.from_numpy(np.concatenate(parts, axis=1))


def shapely_iou(a: torch.Tensor, b: torch.Tensor) -> float:
    one, other = Polygon(a.tolist()), Polygon(b.tolist())
    return one.intersection(other).area / one.union(other).area


@given(BOX)
def test_le90_is_the_same_rectangle_with_its_long_side_first(values: tuple[float, ...]) -> None:
    box = torch.tensor([values], dtype=torch.float64)
    le90 = to_le90(box)
    assert le90[0, 2] >= le90[0, 3]
    assert -math.pi / 2 <= le90[0, 4] < math.pi / 2
    distances = torch.cdist(to_corners(box)[0], to_corners(le90)[0])
    assert distances.amin(0).max() < 1e-9 and distances.amin(1).max() < 1e-9
    assert torch.allclose(from_corners(to_corners(box)), le90, atol=1e-6) or le90[0, 2] - le90[0, 3] < 1e-6


def test_angles_at_the_ends() -> None:
    angles = torch.tensor([math.pi / 2, -math.pi / 2, math.pi, -1e-300, 3 * math.pi / 2], dtype=torch.float64)
    boxes = torch.cat([torch.tensor([[0.0, 0.0, 4.0, 2.0]], dtype=torch.float64).expand(5, 4), angles[:, None]], 1)
    assert torch.allclose(to_le90(boxes)[:, 4], torch.tensor([-1, -1, 0, 0, -1], dtype=torch.float64) * math.pi / 2)


def test_a_corner_form_goes_clockwise_in_the_image() -> None:
    corners = to_corners(torch.tensor([10.0, 20.0, 6.0, 2.0, math.pi / 2]))
    assert torch.allclose(corners, torch.tensor([[11.0, 17], [11, 23], [9, 23], [9, 17]]), atol=1e-5)


def test_the_smallest_rectangle_around_a_quadrangle_is_shapelys() -> None:
    for corners in np.random.default_rng(1).uniform(0, 50, (200, 4, 2)):
        ours = to_corners(from_corners(torch.from_numpy(corners)))
        expected = Polygon(corners).convex_hull.minimum_rotated_rectangle
        assert Polygon(ours.tolist()).area == pytest.approx(expected.area, rel=1e-9)
        assert Polygon(ours.tolist()).buffer(1e-6).covers(Polygon(corners).convex_hull)


def test_iou_of_2000_golden_pairs() -> None:
    golden = np.load(GOLDEN / "polygon_iou.npz")
    first, second = torch.from_numpy(golden["pairs"]).reshape(-1, 2, 4, 2).unbind(1)
    assert (quad_iou(first, second) - torch.from_numpy(golden["iou"])).abs().max() < 1e-6
    assert (quad_iou(first.flip(1), second) - torch.from_numpy(golden["iou"])).abs().max() < 1e-6


@given(BOX, BOX)
def test_iou_is_shapelys(a: tuple[float, ...], b: tuple[float, ...]) -> None:
    one, other = torch.tensor([a], dtype=torch.float64), torch.tensor([b], dtype=torch.float64)
    expected = shapely_iou(to_corners(one)[0], to_corners(other)[0])
    assert rotated_iou(one, other).item() == pytest.approx(expected, abs=1e-6)
    assert rotated_iou(other, one).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("shift", [0.0, 1e-15, 1e-12, 1e-9, 1e-6])
@pytest.mark.parametrize("angle", [0.0, 0.3, math.pi / 4, 1e-9])
def test_iou_of_near_identical_and_touching_boxes(shift: float, angle: float) -> None:
    box = torch.tensor([[5000.0, 3000.0, 30.0, 10.0, angle]], dtype=torch.float64)
    near = box + torch.tensor([[shift, -shift, shift, 0.0, shift]], dtype=torch.float64)
    assert rotated_iou(box, near).item() == pytest.approx(1.0, abs=1e-5)
    along = torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64)
    beside, halfway = box.clone(), box.clone()
    beside[:, :2] += 30 * along
    halfway[:, :2] += 15 * along
    assert rotated_iou(box, beside).item() == pytest.approx(0.0, abs=1e-9)
    assert rotated_iou(box, halfway).item() == pytest.approx(1 / 3, abs=1e-9)


def test_iou_of_dented_and_crossing_quadrangles() -> None:
    dart = torch.tensor([[0.0, 0], [4, 0], [1, 1], [0, 4]])
    square = torch.tensor([[0.0, 0], [4, 0], [4, 4], [0, 4]])
    bow_tie = torch.tensor([[0.0, 0], [4, 4], [4, 0], [0, 4]])
    first = torch.stack([dart, dart, bow_tie, torch.full((4, 2), torch.nan)])
    iou = quad_iou(first, torch.stack([square, dart.flip(0), square, square]))
    assert torch.allclose(iou, torch.tensor([0.25, 1.0, 0.0, 0.0], dtype=torch.float64))


def test_a_matrix_is_all_pairs() -> None:
    first, second = random_boxes(5, 40), random_boxes(7, 40, seed=1)
    matrix = rotated_iou_matrix(first, second)
    assert matrix.shape == (5, 7)
    assert matrix[3, 2] == rotated_iou(first[3:4], second[2:3])[0]
    assert rotated_iou_matrix(first[:0], second).shape == (0, 7)


def test_faults_are_named() -> None:
    nan = [[0.0, 0], [float("nan"), 0], [4, 4], [0, 4]]
    bow_tie = [[0.0, 0], [4, 4], [4, 0], [0, 4]]
    line, point = [[0.0, 0], [1, 1], [2, 2], [3, 3]], [[2.0, 2]] * 4
    outside, good = [[90.0, 0], [94, 0], [94, 4], [90, 4]], [[0.0, 0], [4, 0], [4, 4], [0, 4]]
    corners = torch.tensor([nan, bow_tie, line, point, outside, good], dtype=torch.float64)
    assert find_faults(corners, 50, 50).tolist() == [1, 2, 3, 3, 4, 0]
    assert find_faults(corners).tolist() == [1, 2, 3, 3, 0, 0]


def brute_force(boxes: torch.Tensor, scores: torch.Tensor, threshold: float, labels: torch.Tensor) -> list[int]:
    polygons = [Polygon(corners) for corners in to_corners(boxes).tolist()]
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: (-float(scores[i]), i)):
        same = (polygons[j] for j in kept if labels[j] == labels[i])
        if all(polygons[i].intersection(p).area <= threshold * polygons[i].union(p).area for p in same):
            kept.append(i)
    return kept


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.5, 0.8])
@pytest.mark.parametrize("span", [30, 120])
def test_nms_is_the_brute_force_one(threshold: float, span: float) -> None:
    boxes = random_boxes(150, span)
    boxes = torch.cat([boxes, boxes[:40] + 1e-7, boxes[:20]])  # near-identical, and identical
    rng = np.random.default_rng(2)
    scores = torch.from_numpy(rng.integers(0, 12, len(boxes)) / 12)  # many ties
    labels = torch.from_numpy(rng.integers(0, 3, len(boxes)))
    kept = rotated_nms(boxes, scores, threshold, labels).tolist()
    assert kept == brute_force(boxes, scores, threshold, labels)
    assert rotated_nms(boxes, scores, threshold).tolist() == brute_force(boxes, scores, threshold, labels * 0)


def test_nms_goes_on_over_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes, scores = random_boxes(400, 100), torch.from_numpy(np.random.default_rng(3).random(400))
    whole = rotated_nms(boxes, scores, 0.3)
    monkeypatch.setattr("s5.detection.nms._AT_ONCE", 7)
    assert torch.equal(rotated_nms(boxes, scores, 0.3), whole)


def test_nms_leaves_out_what_is_no_box() -> None:
    boxes = torch.tensor([[0.0, 0, 4, 2, 0], [torch.nan, 0, 4, 2, 0], [50, 0, 0, 2, 0], [9, 9, 4, 2, 0]])
    assert rotated_nms(boxes, torch.tensor([0.1, 0.9, 0.8, torch.nan]), 0.5).tolist() == [0]
    assert rotated_nms(boxes[:0], torch.zeros(0), 0.5).tolist() == []
    with pytest.raises(ValueError, match=r"threshold in \[0, 1\), got 1"):
        rotated_nms(boxes, torch.zeros(4), 1.0)
