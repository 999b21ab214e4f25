"""CutMix (Yun et al., 2019) between the images of a batch, with the pseudo-labels moved along."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from s5.seeds import Draws


@dataclass(frozen=True)
class CutMixConfig:
    """S5's CutMix: a box of 2 to 40 % of the image and an aspect of 0.3 to 3.33, for half of the images."""

    probability: float = 0.5
    area: tuple[float, float] = (0.02, 0.4)
    aspect: tuple[float, float] = (0.3, 1 / 0.3)

    def __post_init__(self) -> None:
        object.__setattr__(self, "area", tuple(self.area))
        object.__setattr__(self, "aspect", tuple(self.aspect))
        if not 0 <= self.probability <= 1:
            raise ValueError(f"cutmix.probability: expected a value in [0, 1], got {self.probability!r}")
        if len(self.area) != 2 or not 0 < self.area[0] <= self.area[1] <= 1:
            raise ValueError(f"cutmix.area: expected [smallest, largest] share of the image, got {self.area!r}")
        if len(self.aspect) != 2 or not 0 < self.aspect[0] <= self.aspect[1]:
            raise ValueError(f"cutmix.aspect: expected [smallest, largest], both positive, got {self.aspect!r}")


def draw_boxes(batch: int, height: int, width: int, config: CutMixConfig, drawn: Draws) -> torch.Tensor:
    """bool [B, H, W]: True where an image takes its partner's pixels; all False for images that are left alone."""
    draws = drawn.rand(batch, 5)
    area = (config.area[0] + draws[:, 0] * (config.area[1] - config.area[0])) * height * width
    log_low, log_high = math.log(config.aspect[0]), math.log(config.aspect[1])
    aspect = torch.exp(log_low + draws[:, 1] * (log_high - log_low))
    box_h = torch.sqrt(area / aspect).round().clamp(1, height)
    box_w = torch.sqrt(area * aspect).round().clamp(1, width)
    top = (draws[:, 2] * (height - box_h + 1)).floor()
    left = (draws[:, 3] * (width - box_w + 1)).floor()
    rows, columns = torch.arange(height), torch.arange(width)
    in_rows = (rows >= top[:, None]) & (rows < (top + box_h)[:, None])
    in_columns = (columns >= left[:, None]) & (columns < (left + box_w)[:, None])
    mixed = draws[:, 4] < config.probability
    return in_rows[:, :, None] & in_columns[:, None, :] & mixed[:, None, None]


def partners_of(batch: int) -> torch.Tensor:
    """int64 [B]: for each image the other one of its pair, the first two being a pair, and so on.

    Tiles come in random order, so that any neighbour is a random one; and pairs stay together where processes, or the
    parts of a step, share a batch. In an odd batch the last three form a ring; a batch of one has itself.
    """
    partners = torch.arange(batch) ^ 1
    if batch % 2:
        partners[-3:] = torch.arange(batch)[-3:].roll(-1)
    return partners


def paste(values: torch.Tensor, boxes: torch.Tensor, partners: torch.Tensor) -> torch.Tensor:
    """Put each image's partner into its box.

    Args:
        values: [B, H, W] or [B, C, H, W].
        boxes: bool [B, H, W].
        partners: int64 [B].
    """
    if values.ndim == 4:
        boxes = boxes[:, None]
    return torch.where(boxes, values[partners], values)
