"""The DPT decoder (Ranftl et al., "Vision Transformers for Dense Prediction", ICCV 2021), for every encoder."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from s5.models.layers import BatchNorm2d, ConvNormAct, resize


class ReassemblePyramid(nn.Module):
    """Four levels out of a plain ViT's single stride: 1 x 1 projections, then x4, x2, x1 and x1/2 by convolutions.

    DPT, Section 3.1, the Reassemble operation with the readout "ignore": the encoder's maps hold no class token. With
    patches of 16 px the strides are 4, 8, 16 and 32, otherwise a quarter, a half, one and two patches.

    Args:
        width: channels of each map.
        channels: channels of the four levels, fine to coarse. None takes an eighth, a quarter, a half and the whole of
            `width`, the paper's 96, 192, 384, 768 for ViT-B: a level has four times the pixels of the next one, and
            half its channels. They go with the encoder's width, not with the decoder's, because the transposed
            convolutions spread what one token holds over many pixels. (The paper's ViT-L has 256, 512, 1024, 1024.)

    Shape: four maps [B, width, h, w] to levels of 4h x 4w, 2h x 2w, h x w and ceil(h/2) x ceil(w/2).

    Raises:
        ValueError: `channels` are not four positive numbers.
    """

    def __init__(self, width: int, channels: list[int] | None = None) -> None:
        super().__init__()
        self.channels = [max(width // part, 1) for part in (8, 4, 2, 1)] if channels is None else list(channels)
        if len(self.channels) != 4 or min(self.channels) < 1:
            raise ValueError(f"channels: expected four positive widths, fine to coarse, got {channels}")
        finest, fine, _, coarse = self.channels
        self.projections = nn.ModuleList(nn.Conv2d(width, level, 1) for level in self.channels)
        self.resamplings = nn.ModuleList(
            [
                nn.ConvTranspose2d(finest, finest, 4, 4),
                nn.ConvTranspose2d(fine, fine, 2, 2),
                nn.Identity(),
                # The padding gives an odd last row its own output row, so that a single token works.
                nn.Conv2d(coarse, coarse, 3, 2, padding=1),
            ]
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return [
            resample(project(m)) for project, resample, m in zip(self.projections, self.resamplings, maps, strict=True)
        ]


class ResidualConvUnit(nn.Module):
    """x + BN(conv(ReLU(BN(conv(ReLU(x)))))): RefineNet's unit (Lin et al., CVPR 2017), as DPT has it for segmentation.

    Args:
        channels: channels in and out.

    Shape: [B, channels, H, W] to the same.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.ReLU(),  # not in place: the sum needs its input
            ConvNormAct(channels, channels, 3),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            BatchNorm2d(channels),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out: Tensor = x_BCHW + self.residual(x_BCHW)
        return out


class FusionBlock(nn.Module):
    """Add a level to the path from the coarser ones, refine the sum, and enlarge it (DPT, Section 3.1 and Figure 1).

    Args:
        channels: channels in and out.
        has_level: False for the coarsest block, which has a path alone; DPT's code keeps an unused unit there.

    Shape: path [B, channels, h, w] and level the same to [B, channels, *size].
    """

    def __init__(self, channels: int, *, has_level: bool = True) -> None:
        super().__init__()
        self.level_unit = ResidualConvUnit(channels) if has_level else None
        self.path_unit = ResidualConvUnit(channels)
        self.project = nn.Conv2d(channels, channels, 1)

    def forward(self, path_BCHW: Tensor, level_BCHW: Tensor | None, size: Sequence[int]) -> Tensor:
        if self.level_unit is not None:
            path_BCHW = path_BCHW + self.level_unit(level_BCHW)
        # DPT enlarges first. Interpolation weights sum to one, so the two commute, and this is a quarter of the work.
        return resize(self.project(self.path_unit(path_BCHW)), size, align_corners=True)


class DPTDecoder(nn.Module):
    """Four RefineNet-style fusion blocks from the coarsest level to the finest, each with a resolution twice as fine.

    DPT (ICCV 2021), Section 3.1, with the batch norm and the 3 x 3 convolution of its segmentation network. Enlarging
    is bilinear with corners aligned, as in the released code; to the next level's size, which is twice the path's
    unless the number of tokens is odd. The last block enlarges too: the output is finer than any level, and a model
    that resizes the logits by the remaining factor of 2 does what DPT's head does.

    Args:
        in_channels: channels of the four maps, shallow to deep.
        channels: width of the decoder and of its output (DPT: 256).

    Shape: four maps of strides 4, 8, 16, 32 to [B, channels, H/2, W/2].
    """

    def __init__(self, in_channels: list[int], channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.laterals = nn.ModuleList(nn.Conv2d(width, channels, 3, padding=1, bias=False) for width in in_channels)
        deepest = len(in_channels) - 1
        self.fusions = nn.ModuleList(FusionBlock(channels, has_level=i < deepest) for i in range(len(in_channels)))
        self.smooth = ConvNormAct(channels, channels, 3)

    def forward(self, maps: list[Tensor]) -> Tensor:
        levels = [lateral(m) for lateral, m in zip(self.laterals, maps, strict=True)]
        height, width = levels[0].shape[-2:]
        sizes = [(2 * height, 2 * width), *(level.shape[-2:] for level in levels[:-1])]
        path = self.fusions[-1](levels[-1], None, sizes[-1])
        for i in range(len(levels) - 2, -1, -1):
            path = self.fusions[i](path, levels[i], sizes[i])
        smoothed: Tensor = self.smooth(path)
        return smoothed
