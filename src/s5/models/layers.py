"""The convolution block that the decoders are made of, and bilinear resizing."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that also trains on a single value per channel.

    A map pooled to 1 x 1 of a batch of one has no variance, and torch refuses it ("Expected more than 1 value per
    channel"). Normalised by itself it would be zero whatever the image; the running statistics are used instead, as
    in evaluation, and are left as they are.
    """

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.shape[0] * input.shape[2] * input.shape[3] == 1:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
            )
        return super().forward(input)


class ConvNormAct(nn.Sequential):
    """Convolution without bias, batch norm, ReLU; "same" padding."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False),
            BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )


def resize(map_BCHW: Tensor, size: Sequence[int], *, align_corners: bool = False) -> Tensor:
    """Bilinear interpolation to `size` (height, width); returns the map itself where it has that size."""
    if tuple(map_BCHW.shape[-2:]) == tuple(size):
        return map_BCHW
    return F.interpolate(map_BCHW, size=(size[0], size[1]), mode="bilinear", align_corners=align_corners)
