"""Areas that rotated boxes and other quadrangles share, exact by polygon clipping, batched on tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from s5.detection.boxes import crossing, outer_boxes, signed_area, to_corners

_PAIRS_AT_ONCE = 1 << 16  # as many as stay in a processor's cache
_ON_LINE = 1e-11  # of the pair's extent: a corner that lies so near a clipping line lies on it


def rotated_iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU of boxes with boxes, pair by pair: [N, 5] and [N, 5] to float64 [N]."""
    return quad_iou(to_corners(first.double()), to_corners(second.double()), simple=True)


def rotated_iou_matrix(first: Tensor, second: Tensor) -> Tensor:
    """IoU of every box of `first` [N, 5] with every box of `second` [M, 5]: float64 [N, M]."""
    one, other = outer_boxes(first.double())[:, None], outer_boxes(second.double())[None]
    near = (torch.minimum(one[..., 2:], other[..., 2:]) > torch.maximum(one[..., :2], other[..., :2])).all(-1)
    i, j = near.nonzero(as_tuple=True)
    iou = torch.zeros(near.shape, dtype=torch.float64, device=first.device)
    iou[i, j] = rotated_iou(first[i], second[j])
    return iou


def quad_iou(first: Tensor, second: Tensor, *, simple: bool = False) -> Tensor:
    """IoU of quadrangles [N, 4, 2] with quadrangles, pair by pair, as float64 [N].

    Corners may go either way round, and one may lie inside the triangle of the others. A quadrangle whose edges cross,
    or that is not finite, shares nothing with anything.

    Args:
        simple: All quadrangles are known to be convex: saves looking.
    """
    first, second = _clockwise(first.double()), _clockwise(second.double())
    shared = intersection_area(first, second)
    if not simple:
        dented = ~(_convex(first) & _convex(second))
        if bool(dented.any()):
            shared[dented] = _of_triangles(first[dented], second[dented])
        shared[crossing(first) | crossing(second)] = 0.0
    areas = signed_area(first), signed_area(second)
    union = areas[0] + areas[1] - shared
    return torch.where(union > 0, shared / union, 0.0).nan_to_num(0.0)


def intersection_area(first: Tensor, second: Tensor) -> Tensor:
    """Area shared by convex polygons [N, P, 2] and [N, Q, 2], corners clockwise in the image, as float64 [N].

    Sutherland and Hodgman (1974): the first is cut along the line of each edge of the second.
    """
    shared = [
        _clip_and_measure(a, b)
        for a, b in zip(first.double().split(_PAIRS_AT_ONCE), second.double().split(_PAIRS_AT_ONCE), strict=True)
    ]
    return torch.cat(shared) if shared else first.new_zeros(0, dtype=torch.float64)


def _clip_and_measure(first: Tensor, second: Tensor) -> Tensor:
    # Pairs last, so that every operation runs over long rows; about a common corner, so that nothing cancels.
    origin = second[:, :1]
    x, y = (first - origin).permute(2, 1, 0).contiguous()
    edge_x, edge_y = (second - origin).permute(2, 1, 0).contiguous()
    extent = torch.maximum(edge_x.abs().amax(0), edge_y.abs().amax(0)) + torch.maximum(x.abs().amax(0), y.abs().amax(0))
    for corner in range(len(edge_x)):
        after = (corner + 1) % len(edge_x)
        dx, dy = edge_x[after] - edge_x[corner], edge_y[after] - edge_y[corner]
        distance = dx * (y - edge_y[corner]) - dy * (x - edge_x[corner])
        tolerance = _ON_LINE * extent * (dx.abs() + dy.abs())
        x, y = _cut(x, y, torch.where(distance.abs() <= tolerance, 0.0, distance))
    after_x, after_y = x.roll(-1, 0), y.roll(-1, 0)
    doubled: Tensor = (x * after_y - y * after_x).sum(0)
    return (doubled / 2).clamp(min=0.0)


def _cut(x: Tensor, y: Tensor, distance: Tensor) -> tuple[Tensor, Tensor]:
    """What of convex polygons [P, N] lies at distances of at least 0, as [P + 1, N]; spare places repeat a corner."""
    places, pairs = x.shape
    after = distance.roll(-1, 0)
    inside = distance >= 0
    crosses = ((distance > 0) & (after < 0)) | ((distance < 0) & (after > 0))
    share = torch.where(crosses, distance / torch.where(crosses, distance - after, 1.0), 0.0)
    cut_x, cut_y = torch.lerp(x, x.roll(-1, 0), share), torch.lerp(y, y.roll(-1, 0), share)
    kept = torch.stack([inside, crosses], dim=1).flatten(0, 1)
    # A line crosses a convex polygon twice at most; whatever rounding adds falls into a last place that is thrown away.
    place = torch.where(kept, kept.long().cumsum(0) - 1, places + 1).clamp(max=places + 1)
    number = kept.sum(0)
    out = []
    for corner, cut in ((x, cut_x), (y, cut_y)):
        listed = torch.stack([corner, cut], dim=1).flatten(0, 1)
        placed = torch.zeros(places + 2, pairs, dtype=x.dtype, device=x.device).scatter_(0, place, listed)[:-1]
        spare = torch.arange(places + 1, device=x.device)[:, None] >= number
        out.append(torch.where(spare, placed[:1], placed))
    return out[0], out[1]


def _clockwise(corners: Tensor) -> Tensor:
    return torch.where((signed_area(corners) < 0)[:, None, None], corners.flip(1), corners)


def _convex(corners: Tensor) -> Tensor:
    before, after = corners - corners.roll(1, 1), corners.roll(-1, 1) - corners
    return ((before[..., 0] * after[..., 1] - before[..., 1] * after[..., 0]) >= 0).all(dim=1)


def _of_triangles(first: Tensor, second: Tensor) -> Tensor:
    """Shared area by the signed triangles of a fan about the first corner: right for every simple polygon."""
    shared = first.new_zeros(len(first))
    for a in ([0, 1, 2], [0, 2, 3]):
        for b in ([0, 1, 2], [0, 2, 3]):
            one, other = first[:, a], second[:, b]
            sign = signed_area(one).sign() * signed_area(other).sign()
            shared += sign * intersection_area(_clockwise(one), _clockwise(other))
    return shared.clamp(min=0.0)
