"""Rotated boxes: the le90 form, corners, and what makes a box unusable.

Shape suffixes in this room: N boxes or pairs, M boxes of one image, L locations, K classes, B images.

The le90 form is ``[cx, cy, w, h, angle]`` in pixels and radians with ``w >= h`` and ``angle`` in [-pi/2, pi/2): the
turn from the x axis to the long side, clockwise in the image, since y points down.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_HALF_PI = math.pi / 2
_PAIRS = ((0, 1), (1, 2), (2, 3), (3, 0), (0, 2), (1, 3))
_LEAST_AREA = 1e-4  # square pixels; what is less has no area but for rounding

FAULTS = ("not_finite", "crossing_corners", "zero_area", "outside_image")
"""Kinds of unusable boxes, by the codes that `find_faults` gives, from 1."""


def to_le90(boxes: Tensor) -> Tensor:
    """The same rectangles [..., 5] with the long side first and the angle in [-pi/2, pi/2)."""
    cx, cy, w, h, angle = boxes.unbind(-1)
    swap = w < h
    long, short = torch.where(swap, h, w), torch.where(swap, w, h)
    angle = torch.where(swap, angle + _HALF_PI, angle)
    angle = torch.remainder(angle + _HALF_PI, math.pi) - _HALF_PI
    # remainder of a tiny negative number rounds up to pi itself
    angle = torch.where(angle >= _HALF_PI, angle - math.pi, angle)
    return torch.stack([cx, cy, long, short, angle], dim=-1)


def to_corners(boxes: Tensor) -> Tensor:
    """Corners [..., 4, 2] of boxes [..., 5], clockwise in the image."""
    cx, cy, w, h, angle = boxes.unbind(-1)
    cos, sin = angle.cos() / 2, angle.sin() / 2
    along = torch.stack([w * cos, w * sin], dim=-1)
    across = torch.stack([-h * sin, h * cos], dim=-1)
    centre = torch.stack([cx, cy], dim=-1)
    corners = [centre - along - across, centre + along - across, centre + along + across, centre - along + across]
    return torch.stack(corners, dim=-2)


def outer_boxes(boxes: Tensor) -> Tensor:
    """The upright boxes [..., 4] (x1, y1, x2, y2) around boxes [..., 5]."""
    low, high = torch.aminmax(to_corners(boxes), dim=-2)
    return torch.cat([low, high], dim=-1)


def from_corners(corners: Tensor) -> Tensor:
    """The smallest rectangle around each four corners [..., 4, 2], in le90 form [..., 5].

    A side of the smallest rectangle lies on an edge of the convex hull (Freeman and Shapira, 1975), and the edges of
    the hull of four points are among the six lines through two of them.
    """
    directions = torch.stack([corners[..., j, :] - corners[..., i, :] for i, j in _PAIRS], dim=-2)  # [..., 6, 2]
    length = directions.norm(dim=-1, keepdim=True)
    along = directions / length.clamp(min=torch.finfo(corners.dtype).tiny)
    across = torch.stack([-along[..., 1], along[..., 0]], dim=-1)
    origin = corners.mean(dim=-2, keepdim=True)
    u = (corners - origin) @ along.transpose(-1, -2)  # [..., 4, 6]
    v = (corners - origin) @ across.transpose(-1, -2)
    (u_low, u_high), (v_low, v_high) = torch.aminmax(u, dim=-2), torch.aminmax(v, dim=-2)
    area = torch.where(length[..., 0] > 0, (u_high - u_low) * (v_high - v_low), torch.inf)
    best = area.argmin(dim=-1, keepdim=True)

    def chosen(values: Tensor) -> Tensor:
        return values.gather(-1, best)[..., 0]

    cos, sin = chosen(along[..., 0]), chosen(along[..., 1])
    middle_u, middle_v = chosen(u_low + u_high) / 2, chosen(v_low + v_high) / 2
    centre = origin[..., 0, :] + torch.stack([middle_u * cos - middle_v * sin, middle_u * sin + middle_v * cos], -1)
    size = torch.stack([chosen(u_high - u_low), chosen(v_high - v_low)], dim=-1)
    return to_le90(torch.cat([centre, size, torch.atan2(sin, cos)[..., None]], dim=-1))


def signed_area(corners: Tensor) -> Tensor:
    """Area of polygons [..., K, 2]; positive where the corners go clockwise in the image."""
    moved = corners - corners[..., :1, :]  # about a corner: coordinates of large scenes would cancel
    after = moved.roll(-1, dims=-2)
    return (moved[..., 0] * after[..., 1] - moved[..., 1] * after[..., 0]).sum(dim=-1) / 2


def find_faults(corners: Tensor, height: int | None = None, width: int | None = None) -> Tensor:
    """What is wrong with each four corners [N, 4, 2]: 0 for nothing, else one more than the place in `FAULTS`.

    Args:
        corners: In pixels.
        height, width: Of the image; where they are given, a box whose centre lies outside is at fault.
    """
    finite = torch.isfinite(corners).flatten(1).all(dim=1)
    safe = torch.where(finite[:, None, None], corners, 0.0)
    codes = torch.zeros(len(corners), dtype=torch.int64, device=corners.device)
    if height is not None and width is not None:
        x, y = safe.mean(dim=1).unbind(-1)
        codes[(x < 0) | (y < 0) | (x > width) | (y > height)] = 4
    codes[from_corners(safe)[:, 2:4].prod(dim=1) < _LEAST_AREA] = 3
    codes[signed_area(safe).abs() < _LEAST_AREA] = 3
    codes[crossing(safe)] = 2
    codes[~finite] = 1
    return codes


def crossing(corners: Tensor) -> Tensor:
    """Whether two opposite edges of each four corners [N, 4, 2] cross: a bow tie and no quadrangle."""
    a, b, c, d = corners.unbind(-2)
    return _segments_cross(a, b, c, d) | _segments_cross(b, c, d, a)


def _segments_cross(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    def side(p: Tensor, q: Tensor, r: Tensor) -> Tensor:
        return torch.sign((q - p)[..., 0] * (r - p)[..., 1] - (q - p)[..., 1] * (r - p)[..., 0])

    return (side(a, b, c) * side(a, b, d) < 0) & (side(c, d, a) * side(c, d, b) < 0)
