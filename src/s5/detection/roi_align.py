"""The features of a rotated box, sampled on a grid that turns with it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_BOXES_AT_ONCE = 512
_FINEST = 14  # strides: boxes up to twice this size are read from the finest level (FPN, Lin et al., CVPR 2017: 56 px)


def rotated_roi_align(features: Tensor, boxes: Tensor, stride: float, *, size: int = 7, samples: int = 2) -> Tensor:
    """Features [N, C, size, size] of rotated boxes: the mean of `samples` x `samples` bilinear reads in every bin.

    RoI align (He et al., ICCV 2017) on a turned grid, as S5's Oriented R-CNN has it. The first axis of a bin grid runs
    along the short side of a box in le90 form, the second along its long side. What is read more than a pixel of the
    map outside it is zero, as in `torchvision.ops.roi_align` with ``aligned=True``.

    Args:
        features: [C, H, W] of one image.
        boxes: [N, 5], in pixels of the image.
        stride: Pixels of the image for one of the map.
    """
    channels, height, width = features.shape
    if len(boxes) == 0:
        return features.new_zeros(0, channels, size, size)
    steps = (torch.arange(size * samples, device=boxes.device) + 0.5) / (size * samples) - 0.5
    parts = []
    for some in boxes.to(features.dtype).split(_BOXES_AT_ONCE):
        x, y, w, h, angle = some[:, :, None, None].unbind(1)
        along, across = steps[None, None, :] * w, steps[None, :, None] * h
        at_x = (x + along * angle.cos() - across * angle.sin()) / stride  # [n, S, S], in pixels of the map
        at_y = (y + along * angle.sin() + across * angle.cos()) / stride
        grid = torch.stack([2 * at_x / width - 1, 2 * at_y / height - 1], dim=-1).flatten(0, 1)[None]
        read = F.grid_sample(features[None], grid, mode="bilinear", padding_mode="border", align_corners=False)
        inside = (at_x >= -0.5) & (at_x <= width + 0.5) & (at_y >= -0.5) & (at_y <= height + 0.5)
        read = read[0].reshape(channels, len(some), size * samples, size * samples) * inside
        parts.append(F.avg_pool2d(read.transpose(0, 1), samples))
    return torch.cat(parts)


def pool_boxes(levels: Sequence[Tensor], strides: Sequence[int], boxes: Tensor, *, size: int = 7) -> Tensor:
    """Features [N, C, size, size] of boxes [N, 5] of one image, each from the level that fits its area.

    Args:
        levels: [C, H, W] of the image, the finest first.
    """
    side = boxes[:, 2:4].clamp(min=0).prod(1).sqrt()
    level = (side / (_FINEST * strides[0]) + 1e-6).log2().floor().nan_to_num(0.0).clamp(0, len(levels) - 1)
    pooled = levels[0].new_zeros(len(boxes), levels[0].shape[0], size, size)
    for number, (features, stride) in enumerate(zip(levels, strides, strict=True)):
        mine = (level == number).nonzero()[:, 0]
        pooled = pooled.index_put((mine,), rotated_roi_align(features, boxes[mine], stride, size=size))
    return pooled
