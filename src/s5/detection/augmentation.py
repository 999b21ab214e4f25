"""Augmentation that moves boxes with pixels: scale, crop, flips, quarter turns and free turns in one resampling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from s5.detection.boxes import from_corners, to_corners
from s5.detection.splitting import visible_shares
from s5.seeds import Draws

_AROUND = 0.4  # of the crop's side: how far its centre may lie from the object that it is put around


@dataclass(frozen=True)
class BoxGeometryConfig:
    """How a training window is cropped and turned.

    Args:
        crop: Side of the crop, in pixels of the network's input.
        scale: Smallest and largest factor by which a window is magnified, over `detection.magnify`.
        hflip, vflip: Probability of each flip.
        rotate90: Probability of a turn by 90, 180 or 270 degrees.
        rotate: Probability of a further turn by any angle.
        on_object: Probability that a crop is put around an object of its window, where that has one.
        min_visible: Share of an object's area that the crop must show; with less it is ignored.
    """

    crop: int = 192
    scale: tuple[float, float] = (0.8, 1.25)
    hflip: float = 0.5
    vflip: float = 0.5
    rotate90: float = 0.5
    rotate: float = 0.5
    on_object: float = 0.8
    min_visible: float = 0.6

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", tuple(self.scale))
        if not isinstance(self.crop, int) or self.crop < 1:
            raise ValueError(f"augmentation.crop: expected a positive number of pixels, got {self.crop!r}")
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"augmentation.scale: expected [smallest, largest], both positive, got {self.scale!r}")
        for name in ("hflip", "vflip", "rotate90", "rotate", "on_object", "min_visible"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"augmentation.{name}: expected a value in [0, 1], got {getattr(self, name)!r}")


def augment_boxes(
    images: Tensor,
    valid: Tensor,
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    config: BoxGeometryConfig,
    *,
    magnify: float,
    drawn: Draws,
) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
    """Augment a batch of windows with their boxes.

    Args:
        images: [B, C, H, W], raw or scaled.
        valid: bool [B, H, W]; False outside the scene.
        boxes: For each image [M, 5] in pixels of the window.
        labels: For each image int64 [M]; -1 is ignored.
        magnify: The network's pixels for one of the scene's.
        drawn: Of these images.

    Returns:
        Images float32 [B, C, crop, crop], valid bool [B, crop, crop], boxes and labels of what the crops show; what
        they show too little of has the label -1.
    """
    batch, _, height, width = images.shape
    turn, centre = _draw(boxes, labels, (height, width), config, magnify, drawn)
    size = torch.tensor([width, height], dtype=torch.float32)
    theta = torch.cat([turn * config.crop / size[:, None], (2 * centre / size - 1)[:, :, None]], dim=2)
    grid = F.affine_grid(theta.to(images.device), [batch, 1, config.crop, config.crop], align_corners=False)
    moved = F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    seen = F.grid_sample(valid[:, None].float(), grid, mode="nearest", padding_mode="zeros", align_corners=False)
    back = torch.linalg.inv(turn.double())
    out_boxes, out_labels = [], []
    for place in range(batch):
        corners = to_corners(boxes[place].double().cpu()) - centre[place].double()
        corners = corners @ back[place].T + config.crop / 2
        shares = visible_shares(corners, config.crop, config.crop)
        kept = shares > 0
        out_boxes.append(from_corners(corners[kept]).float())
        out_labels.append(torch.where(shares < config.min_visible, -1, labels[place].cpu())[kept])
    return moved, seen[:, 0] > 0.5, out_boxes, out_labels


def _draw(
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    shape: tuple[int, int],
    config: BoxGeometryConfig,
    magnify: float,
    drawn: Draws,
) -> tuple[Tensor, Tensor]:
    """[B, 2, 2] maps from offsets in the crop to offsets in the window, and the crop's centre in it [B, 2]."""
    batch = len(boxes)
    draws = drawn.rand(batch, 11)
    low, high = config.scale
    scale = magnify * torch.exp(math.log(low) + draws[:, 0] * (math.log(high) - math.log(low)))
    quarters = torch.where(draws[:, 1] < config.rotate90, 1 + (draws[:, 2] * 3).floor().clamp(max=2), 0.0)
    free = torch.where(draws[:, 3] < config.rotate, (draws[:, 4] - 0.5) * math.pi / 2, 0.0)
    angle = quarters * math.pi / 2 + free
    flip_x = torch.where(draws[:, 5] < config.hflip, -1.0, 1.0) / scale
    flip_y = torch.where(draws[:, 6] < config.vflip, -1.0, 1.0) / scale
    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack([cos * flip_x, -sin * flip_y, sin * flip_x, cos * flip_y], dim=1).reshape(batch, 2, 2)
    size = torch.tensor([shape[1], shape[0]], dtype=torch.float32)
    shown = (config.crop / scale)[:, None]
    room = (size - shown).clamp(min=0) / 2
    centre = size / 2 + (2 * draws[:, 7:9] - 1) * room
    for place in (draws[:, 9] < config.on_object).nonzero()[:, 0].tolist():
        objects = boxes[place][labels[place] >= 0]
        if len(objects):
            chosen = objects[int(draws[place, 10] * len(objects))].cpu()
            centre[place] = chosen[:2] + (2 * draws[place, 7:9] - 1) * shown[place] * _AROUND
    return turn, torch.minimum(torch.maximum(centre, size / 2 - room), size / 2 + room)


Moved = tuple[Tensor, Tensor, list[Tensor], list[Tensor]]


def make_mosaics(quarters: Sequence[Moved], probability: float, config: BoxGeometryConfig, drawn: Draws) -> Moved:
    """Put some images together from the quarters of four, which meet somewhere in the middle (YOLOv4's mosaic).

    Every quarter keeps its place and its scale, and the objects that it shows; those that are cut are ignored.

    Args:
        quarters: Four times what `augment_boxes` returns: for the quarters upper left, upper right, lower left, lower
            right. An image that becomes no mosaic is the first's.
        probability: That an image becomes one.
        drawn: Of these images.
    """
    images, valid = quarters[0][0].clone(), quarters[0][1].clone()
    height, width = images.shape[-2:]
    draws = drawn.rand(len(images), 3)
    boxes, labels = list(quarters[0][2]), list(quarters[0][3])
    for place in (draws[:, 0] < probability).nonzero()[:, 0].tolist():
        row, col = (int(side * (0.25 + 0.5 * float(draws[place, i]))) for i, side in ((1, height), (2, width)))
        frames = ((0, row, 0, col), (0, row, col, width), (row, height, 0, col), (row, height, col, width))
        kept = []
        for (top, bottom, left, right), (own, own_valid, own_boxes, own_labels) in zip(frames, quarters, strict=True):
            images[place, :, top:bottom, left:right] = own[place, :, top:bottom, left:right]
            valid[place, top:bottom, left:right] = own_valid[place, top:bottom, left:right]
            corners = to_corners(own_boxes[place].double()) - torch.tensor([left, top], dtype=torch.float64)
            shares = visible_shares(corners, bottom - top, right - left)
            seen = torch.where(shares < config.min_visible, -1, own_labels[place])
            kept.append((own_boxes[place][shares > 0], seen[shares > 0]))
        boxes[place], labels[place] = (torch.cat(parts) for parts in zip(*kept, strict=True))
    return images, valid, boxes, labels
