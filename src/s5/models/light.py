"""A light decoder for CPU use: a top-down pyramid with a single 3 x 3 convolution."""

from __future__ import annotations

from torch import Tensor, nn

from s5.models.layers import ConvNormAct, resize


class LightDecoder(nn.Module):
    """1 x 1 laterals summed top-down (FPN, Lin et al., CVPR 2017), and one 3 x 3 convolution at the finest level.

    Args:
        in_channels: channels of the four maps, shallow to deep.
        channels: width of the decoder and of its output.

    Shape: four maps of strides 4, 8, 16, 32 to [B, channels, H/4, W/4].
    """

    def __init__(self, in_channels: list[int], channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.laterals = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in in_channels)
        self.smooth = ConvNormAct(channels, channels, 3)

    def forward(self, maps: list[Tensor]) -> Tensor:
        levels = [lateral(m) for lateral, m in zip(self.laterals, maps, strict=True)]
        top: Tensor = levels[-1]
        for level in reversed(levels[:-1]):
            top = level + resize(top, level.shape[-2:])
        smoothed: Tensor = self.smooth(top)
        return smoothed
