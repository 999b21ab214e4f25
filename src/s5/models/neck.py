"""Necks: from an encoder's maps to the four levels (strides 4, 8, 16, 32) that the decoders read."""

from __future__ import annotations

import math

from timm.layers import LayerNorm2d
from torch import Tensor, nn

from s5.models.layers import resize

PYRAMID_STRIDES = (4, 8, 16, 32)


class PlainPyramid(nn.Module):
    """Four levels out of a plain ViT's single stride: x4 and x2 by transposed convolutions, x1, and x1/2 by pooling.

    S5 (AAAI 2026), the released network's fpn1 to fpn4; the idea is that of ViTDet (Li et al., 2022). With patches of
    16 px the strides are 4, 8, 16 and 32, otherwise a quarter, a half, one and two patches.

    Args:
        width: channels of each map.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fpn1 = nn.Sequential(
            nn.ConvTranspose2d(width, width, 2, 2),
            LayerNorm2d(width, eps=1e-6),
            nn.GELU(),
            nn.ConvTranspose2d(width, width, 2, 2),
        )
        self.fpn2 = nn.ConvTranspose2d(width, width, 2, 2)
        self.fpn3 = nn.Identity()
        # ceil_mode: the same for an even number of tokens, and an odd last row is not lost (a single token would fail).
        self.fpn4 = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.channels = [width] * 4

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return [self.fpn1(maps[0]), self.fpn2(maps[1]), self.fpn3(maps[2]), self.fpn4(maps[3])]


class LevelPyramid(nn.Module):
    """Four levels out of a hierarchical encoder: its own maps where it has them, else the nearest, resampled.

    Args:
        channels: channels of the encoder's maps.
        strides: strides of the encoder's maps.
    """

    def __init__(self, channels: list[int], strides: list[int]) -> None:
        super().__init__()
        self.sources = [
            min(range(len(strides)), key=lambda i: (abs(math.log2(strides[i] / level)), strides[i]))
            for level in PYRAMID_STRIDES
        ]
        self.channels = [channels[i] for i in self.sources]
        self.finest = strides[0]

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        height, width = (side * self.finest for side in maps[0].shape[-2:])
        shapes = [(-(-height // stride), -(-width // stride)) for stride in PYRAMID_STRIDES]
        return [resize(maps[source], shape) for source, shape in zip(self.sources, shapes, strict=True)]
