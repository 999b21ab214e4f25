"""What a batch of images holds, and the record of it that every head learns from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LEAST_SIDE = 1.0  # pixel; boxes thinner than that after augmentation are ignored


@dataclass(frozen=True)
class Targets:
    """Boxes of a batch, padded to a common number.

    Attributes:
        seeds: Of each image, for the samples that a head draws; none is 0 for all.

    Shape:
        boxes: [B, M, 5]. labels: int64 [B, M], a class, or -1 to ignore what lies there. real: bool [B, M].
        valid: bool [B, H, W], pixels that show data; a head may look at some of them only.
    """

    boxes: Tensor
    labels: Tensor
    real: Tensor
    valid: Tensor
    seeds: tuple[int, ...] = ()

    @classmethod
    def of(cls, boxes: Sequence[Tensor], labels: Sequence[Tensor], valid: Tensor, seeds: Sequence[int] = ()) -> Targets:
        """The record of images with boxes [M, 5] and labels [M] each, on the device of `valid` [B, H, W]."""
        most = max((len(one) for one in boxes), default=0)
        padded = torch.ones(len(boxes), most, 5)
        names, real = torch.full((len(boxes), most), -1), torch.zeros(len(boxes), most, dtype=torch.bool)
        for place, (own, own_labels) in enumerate(zip(boxes, labels, strict=True)):
            padded[place, : len(own)], names[place, : len(own)], real[place, : len(own)] = own, own_labels, True
        return cls(padded.to(valid.device), names.to(valid.device), real.to(valid.device), valid, tuple(seeds))

    def learnt(self) -> Tensor:
        """Which boxes [B, M] are to be found: of a known class, finite, and not too thin to be seen."""
        wide = self.boxes[..., 2:4].amin(-1) >= LEAST_SIDE
        return self.real & (self.labels >= 0) & wide & torch.isfinite(self.boxes).all(-1)

    def of_image(self, place: int) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes [G, 5] and labels [G] that one image is to be learnt from, and the boxes to be ignored [I, 5]."""
        learnt = self.learnt()[place]
        ignored = self.real[place] & ~learnt & torch.isfinite(self.boxes[place]).all(-1)
        boxes = self.boxes[place].float()
        return boxes[learnt], self.labels[place][learnt], boxes[ignored]

    def generator_of(self, place: int) -> torch.Generator:
        """For the samples that are drawn from an image; on the CPU, so that every device draws alike."""
        return torch.Generator().manual_seed(self.seeds[place] if self.seeds else 0)
