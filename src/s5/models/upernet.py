"""The UPerNet decoder (Xiao et al., ECCV 2018), laid out as mmsegmentation's UPerHead, which S5 uses."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from s5.models.layers import ConvNormAct, resize


class UPerNetDecoder(nn.Module):
    """Pyramid pooling on the deepest map, a top-down pyramid over the others, all fused at the finest.

    Args:
        in_channels: channels of the four maps, shallow to deep.
        channels: width of the decoder and of its output.
        pool_scales: side of each pooled map.

    Shape: four maps of strides 4, 8, 16, 32 to [B, channels, H/4, W/4].
    """

    def __init__(self, in_channels: list[int], channels: int, pool_scales: tuple[int, ...] = (1, 2, 3, 6)) -> None:
        super().__init__()
        self.channels = channels
        deepest = in_channels[-1]
        self.pools = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(scale), ConvNormAct(deepest, channels, 1)) for scale in pool_scales
        )
        self.bottleneck = ConvNormAct(deepest + len(pool_scales) * channels, channels, 3)
        self.laterals = nn.ModuleList(ConvNormAct(width, channels, 1) for width in in_channels[:-1])
        self.fpn_convs = nn.ModuleList(ConvNormAct(channels, channels, 3) for _ in in_channels[:-1])
        self.fusion = ConvNormAct(len(in_channels) * channels, channels, 3)

    def forward(self, maps: list[Tensor]) -> Tensor:
        levels = [lateral(m) for lateral, m in zip(self.laterals, maps[:-1], strict=True)]
        levels.append(self._pool(maps[-1]))
        for i in range(len(levels) - 1, 0, -1):
            levels[i - 1] = levels[i - 1] + resize(levels[i], levels[i - 1].shape[-2:])
        outs = [conv(level) for conv, level in zip(self.fpn_convs, levels[:-1], strict=True)]
        outs.append(levels[-1])
        fused: Tensor = self.fusion(torch.cat([resize(out, outs[0].shape[-2:]) for out in outs], dim=1))
        return fused

    def _pool(self, deepest: Tensor) -> Tensor:
        pooled = [resize(pool(deepest), deepest.shape[-2:]) for pool in self.pools]
        bottleneck: Tensor = self.bottleneck(torch.cat([deepest, *pooled], dim=1))
        return bottleneck
