"""What a network learns of a box: its place and shape relative to a location, an anchor or a proposal."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from s5.detection.boxes import outer_boxes, to_corners, to_le90

LOCATION_CODES = 6  # offset of the centre (2), log of long and short side (2), cosine and sine of twice the angle (2)
MIDPOINT_CODES = 6  # centre (2) and log of the sides (2) of the upright box, offsets of two vertices (2)
PROPOSAL_CODES = 5  # centre (2), log of the sides (2), angle (1)

_BASE = 4.0  # sides are measured in so many strides
_MOST_LOG = 5.0
_MOST_RATIO = abs(math.log(16 / 1000))  # of a side to that of its anchor or proposal (mmdetection)
_MIDPOINT_UNITS = (1.0, 1.0, 1.0, 1.0, 0.5, 0.5)  # Oriented R-CNN's target_stds
_PROPOSAL_UNITS = (0.1, 0.1, 0.2, 0.2, 0.1)
_SAME = 1e-4  # radians; a box that is turned by less is upright
_LEAST_SIDE = 1e-3  # pixel; of anchors and proposals, so that no ratio is infinite


def decode_locations(codes: Tensor, centres: Tensor, strides: Tensor) -> Tensor:
    """Boxes [..., L, 5] of codes [..., L, 6] at locations [L, 2]; not yet le90."""
    unit = strides[:, None]
    centre = centres + codes[..., :2] * unit
    sides = codes[..., 2:4].clamp(-_MOST_LOG, _MOST_LOG).exp() * unit * _BASE
    angle = torch.atan2(codes[..., 5], codes[..., 4]) / 2
    return torch.cat([centre, sides, angle[..., None]], dim=-1)


def log_sides(boxes: Tensor, strides: Tensor) -> Tensor:
    """The part of the codes of a location that gives the sides of boxes [..., 5]: [..., 2]."""
    return (boxes[..., 2:4] / (strides[..., None] * _BASE)).log()


def encode_midpoints(anchors: Tensor, boxes: Tensor) -> Tensor:
    """Midpoint offsets [N, 6] of boxes [N, 5] from upright anchors [N, 4] (x1, y1, x2, y2).

    Oriented R-CNN (Xie et al., ICCV 2021), equation 1: the upright box around the object, and how far the vertices on
    its upper and right side lie from the middles of these.
    """
    x, y, width, height = _centre_form(anchors)
    outer = outer_boxes(boxes)
    true_x, true_y, true_width, true_height = _centre_form(outer)
    corners = to_corners(boxes)
    # Vertices go clockwise: after the upper one comes the right one. An upright box begins with its upper right.
    upper = (corners[..., 1] - _SAME * corners[..., 0]).argmin(dim=1)
    place = torch.arange(len(boxes), device=boxes.device)
    top, right = corners[place, upper, 0], corners[place, (upper + 1) % 4, 1]
    codes = [
        (true_x - x) / width,
        (true_y - y) / height,
        (true_width / width).log(),
        (true_height / height).log(),
        (top - true_x) / true_width,
        (right - true_y) / true_height,
    ]
    return torch.stack(codes, dim=1) / anchors.new_tensor(_MIDPOINT_UNITS)


def decode_midpoints(anchors: Tensor, codes: Tensor) -> Tensor:
    """Boxes [N, 5] in le90 form; the parallelogram of the vertices becomes a rectangle as its short diagonal grows."""
    x, y, width, height = _centre_form(anchors)
    codes = codes * anchors.new_tensor(_MIDPOINT_UNITS)
    x, y = x + codes[:, 0] * width, y + codes[:, 1] * height
    width = width * codes[:, 2].clamp(-_MOST_RATIO, _MOST_RATIO).exp()
    height = height * codes[:, 3].clamp(-_MOST_RATIO, _MOST_RATIO).exp()
    zero = torch.zeros_like(x)
    top = torch.stack([codes[:, 4].clamp(-0.5, 0.5) * width, -height / 2], dim=1)  # from the centre
    right = torch.stack([width / 2, codes[:, 5].clamp(-0.5, 0.5) * height], dim=1)
    lengths = torch.stack([top.norm(dim=1), right.norm(dim=1)], dim=1).clamp(min=_LEAST_SIDE)
    longest = lengths.amax(1, keepdim=True)
    top, right = top * (longest / lengths[:, :1]), right * (longest / lengths[:, 1:])
    along, across = right - top, right + top  # the sides of the rectangle
    angle = torch.where(along.norm(dim=1) > 0, torch.atan2(along[:, 1], along[:, 0]), zero)
    return to_le90(torch.stack([x, y, along.norm(dim=1), across.norm(dim=1), angle], dim=1))


def encode_deltas(proposals: Tensor, boxes: Tensor) -> Tensor:
    """Codes [N, 5] of boxes from proposals, both [N, 5] in le90 form, in the proposal's own frame.

    The angle is the smaller of the two turns that bring the proposal onto the box, sides swapped where that needs it.
    """
    offset = boxes[:, :2] - proposals[:, :2]
    cos, sin = proposals[:, 4].cos(), proposals[:, 4].sin()
    sides = proposals[:, 2:4].clamp(min=_LEAST_SIDE)
    local = torch.stack([offset[:, 0] * cos + offset[:, 1] * sin, offset[:, 1] * cos - offset[:, 0] * sin], dim=1)
    turn = _half_turn(boxes[:, 4] - proposals[:, 4])
    swapped = _half_turn(turn + math.pi / 2)
    swap = swapped.abs() < turn.abs()
    wanted = torch.where(swap[:, None], boxes[:, [3, 2]], boxes[:, 2:4]).clamp(min=_LEAST_SIDE)
    codes = torch.cat([local / sides, (wanted / sides).log(), torch.where(swap, swapped, turn)[:, None]], dim=1)
    return codes / proposals.new_tensor(_PROPOSAL_UNITS)


def decode_deltas(proposals: Tensor, codes: Tensor) -> Tensor:
    """Boxes [N, 5] in le90 form."""
    codes = codes * proposals.new_tensor(_PROPOSAL_UNITS)
    cos, sin = proposals[:, 4].cos(), proposals[:, 4].sin()
    sides = proposals[:, 2:4].clamp(min=_LEAST_SIDE)
    local = codes[:, :2] * sides
    centre = proposals[:, :2] + torch.stack(
        [local[:, 0] * cos - local[:, 1] * sin, local[:, 0] * sin + local[:, 1] * cos], dim=1
    )
    sides = sides * codes[:, 2:4].clamp(-_MOST_RATIO, _MOST_RATIO).exp()
    return to_le90(torch.cat([centre, sides, (proposals[:, 4] + codes[:, 4])[:, None]], dim=1))


def _centre_form(upright: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Centre and sides of boxes [N, 4] (x1, y1, x2, y2)."""
    x1, y1, x2, y2 = upright.unbind(1)
    return (x1 + x2) / 2, (y1 + y2) / 2, (x2 - x1).clamp(min=_LEAST_SIDE), (y2 - y1).clamp(min=_LEAST_SIDE)


def _half_turn(angle: Tensor) -> Tensor:
    """Angles of lines, which are the same after half a turn, in [-pi/2, pi/2)."""
    return torch.remainder(angle + math.pi / 2, math.pi) - math.pi / 2
