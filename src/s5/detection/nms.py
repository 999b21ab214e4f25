"""Non-maximum suppression of rotated boxes: exact, greedy, class by class, without a loop over pairs."""

from __future__ import annotations

import torch
from torch import Tensor

from s5.detection.boxes import to_corners
from s5.detection.iou import quad_iou

_AT_ONCE = 1024  # boxes that are decided together


def rotated_nms(boxes: Tensor, scores: Tensor, threshold: float, labels: Tensor | None = None) -> Tensor:
    """Positions of the boxes that stay, the highest score first.

    Going down the scores, a box is dropped where its IoU with a box that stays is over `threshold`. Of equal scores the
    earlier position counts as the higher. Boxes that are not finite or have no area, and scores that are NaN, are
    dropped.

    Args:
        boxes: [N, 5].
        scores: [N].
        threshold: In [0, 1).
        labels: int [N]; boxes of different labels do not touch each other. None is one label for all.

    Raises:
        ValueError: a threshold outside [0, 1).
    """
    if not 0 <= threshold < 1:
        raise ValueError(f"rotated_nms: expected a threshold in [0, 1), got {threshold!r}")
    boxes = boxes.double()
    usable = torch.isfinite(boxes).all(1) & (boxes[:, 2] > 0) & (boxes[:, 3] > 0) & ~torch.isnan(scores)
    order = torch.argsort(scores.double(), descending=True, stable=True)
    order = order[usable[order]]
    labels = torch.zeros_like(order) if labels is None else labels.long()[order]
    corners = to_corners(boxes[order])
    left = torch.arange(len(order), device=boxes.device)
    kept = []
    while len(left):
        head, left = left[:_AT_ONCE], left[_AT_ONCE:]
        stays = head[_settle(*_overlapping(corners, labels, head, head, threshold), len(head))]
        kept.append(stays)
        if len(left):
            _, dropped = _overlapping(corners, labels, stays, left, threshold)
            alive = torch.ones(len(left), dtype=torch.bool, device=left.device)
            alive[dropped] = False
            left = left[alive]
    return order[torch.cat(kept)] if kept else order


def _settle(first: Tensor, second: Tensor, number: int) -> Tensor:
    """Which of `number` boxes in order stay, where `second` is dropped if `first`, an earlier one, stays.

    The greedy answer is the only one that agrees with itself; each round settles at least one more link of every chain.
    """
    earlier = first < second
    first, second = first[earlier], second[earlier]
    stays = torch.ones(number, dtype=torch.bool, device=first.device)
    while True:
        now = torch.ones_like(stays)
        now[second[stays[first]]] = False
        if torch.equal(now, stays):
            return stays
        stays = now


def _overlapping(
    corners: Tensor, labels: Tensor, first: Tensor, second: Tensor, threshold: float
) -> tuple[Tensor, Tensor]:
    """Places in `first` and in `second` of all pairs of one label with an IoU over `threshold`."""
    one, other = corners[first], corners[second]
    (low_a, high_a), (low_b, high_b) = _bounds(one), _bounds(other)
    label_a, label_b = labels[first], labels[second]
    # Labels lie side by side, for the search alone.
    span = torch.cat([high_a[0], high_b[0]]).amax() - torch.cat([low_a[0], low_b[0]]).amin() + 1
    i, j = _crossing_intervals(
        low_a[0] + label_a * span, high_a[0] + label_a * span, low_b[0] + label_b * span, high_b[0] + label_b * span
    )
    height = torch.minimum(high_a[1][i], high_b[1][j]) - torch.maximum(low_a[1][i], low_b[1][j])
    near = ((height > 0) & (label_a[i] == label_b[j])).nonzero()[:, 0]
    i, j, height = i[near], j[near], height[near]
    # The shared area is at most that of the upright boxes around them, and at most the smaller of the two.
    width = torch.minimum(high_a[0][i], high_b[0][j]) - torch.maximum(low_a[0][i], low_b[0][j])
    area_a, area_b = _area(one)[i], _area(other)[j]
    most = torch.minimum(width * height, torch.minimum(area_a, area_b))
    possible = (most > threshold * (area_a + area_b - most) * (1 - 1e-9)).nonzero()[:, 0]
    i, j = i[possible], j[possible]
    over = quad_iou(one[i], other[j], simple=True) > threshold
    return i[over], j[over]


def _bounds(corners: Tensor) -> tuple[Tensor, Tensor]:
    """Lowest and highest x and y, each [2, N]."""
    return corners.amin(1).T.contiguous(), corners.amax(1).T.contiguous()


def _area(corners: Tensor) -> Tensor:
    area: Tensor = (corners[:, 1] - corners[:, 0]).norm(dim=1) * (corners[:, 2] - corners[:, 1]).norm(dim=1)
    return area


def _crossing_intervals(low_a: Tensor, high_a: Tensor, low_b: Tensor, high_b: Tensor) -> tuple[Tensor, Tensor]:
    """Places of all pairs of intervals that overlap: the later start of the two lies in the other interval."""
    i, j = _starts_inside(low_a, high_a, low_b, right=False)
    later_j, later_i = _starts_inside(low_b, high_b, low_a, right=True)
    return torch.cat([i, later_i]), torch.cat([j, later_j])


def _starts_inside(low: Tensor, high: Tensor, starts: Tensor, *, right: bool) -> tuple[Tensor, Tensor]:
    """Pairs (interval, start) with low <= start <= high; with `right` those with start = low are left out."""
    ordered, order = torch.sort(starts)
    begin = torch.searchsorted(ordered, low, right=right)
    counts = (torch.searchsorted(ordered, high, right=True) - begin).clamp(min=0)
    interval = torch.repeat_interleave(torch.arange(len(low), device=low.device), counts)
    within = torch.arange(len(interval), device=low.device) - (counts.cumsum(0) - counts)[interval]
    return interval, order[begin[interval] + within]
