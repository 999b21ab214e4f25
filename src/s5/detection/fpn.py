"""The feature pyramid that every head reads."""

from __future__ import annotations

from torch import Tensor, nn

from s5.models.layers import resize


class FeaturePyramid(nn.Module):
    """1 x 1 laterals summed top-down and smoothed by a 3 x 3 convolution (FPN, Lin et al., CVPR 2017)."""

    def __init__(self, in_channels: list[int], channels: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in in_channels)
        self.smooth = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in in_channels)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        levels = [lateral(m) for lateral, m in zip(self.laterals, maps, strict=True)]
        for finer in range(len(levels) - 2, -1, -1):
            levels[finer] = levels[finer] + resize(levels[finer + 1], levels[finer].shape[-2:])
        return [smooth(level) for smooth, level in zip(self.smooth, levels, strict=True)]
