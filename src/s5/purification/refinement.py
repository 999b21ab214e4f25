"""Evidence with the boundaries of class-agnostic masks: within a mask it is smoothed by vote."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, Self

import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from s5.purification.assessment import near_boundary
from s5.purification.config import MaskConfig
from s5.purification.grounding import Grounder, GroundingConfig, weights_digest
from s5.purification.purifiers import answers
from s5.purification.sam import GridMasker

CODE = "1"
"""Raised when the same masks would change evidence otherwise, so that it is asked for anew."""


class Masker(Protocol):
    """A `s5.purification.sam.GridMasker`, or what else finds masks."""

    def masks(self, image: Tensor) -> Tensor:
        """uint8 RGB [3, H, W] in; bool [N, H, W] out."""
        ...


class Refined:
    """A grounder whose evidence was refined by masks of the same image: itself a `s5.purification.grounding.Grounder`.

    What it answers is as fine as the image, and its key holds all that the masks depend on: a stored prior is refined
    already, and training does not know of it.

    Args:
        grounder: That gives the evidence.
        masker: That finds the masks.
        config: How they vote.
        key: All that the masks depend on.
    """

    def __init__(self, grounder: Grounder, masker: Masker, config: MaskConfig, key: dict[str, str]) -> None:
        self.key = {**grounder.key, **key}
        self._grounder, self._masker, self._config = grounder, masker, config

    @classmethod
    def load(cls, grounder: Grounder, config: MaskConfig, grounding: GroundingConfig) -> Self:
        """With SAM or SAM 2, on the device and in the precision of `grounding`.

        Raises:
            ImportError: transformers is not installed.
            ValueError: `config.model` is neither SAM nor SAM 2.
        """
        return cls(grounder, GridMasker.load(config, grounding), config, mask_record(config, grounding.precision))

    def ground(self, images_BCHW: Tensor) -> Tensor:
        evidence = self._grounder.ground(images_BCHW).float().cpu()
        size = images_BCHW.shape[2:]
        if evidence.shape[2:] != size:
            evidence = F.interpolate(evidence, tuple(size), mode="bilinear", align_corners=False)
        pairs = zip(evidence, images_BCHW.cpu(), strict=True)
        return torch.stack([vote(one, self._masker.masks(image), self._config) for one, image in pairs])


def vote(evidence: Tensor, masks: Tensor, config: MaskConfig) -> Tensor:
    """Evidence in which a region says near its outline what most of it says.

    Regions are the masks and what lies between them (`regions_of`). Where a region's evidence speaks for one class by a
    share of `config.vote` or more, its pixels within `config.reach` of another region speak for this class alone, each
    as much as it spoke before. Of what is unknown, no pixel and no part of a pixel becomes known; without a mask
    nothing changes.

    Args:
        evidence: float32 [K + 1, H, W] in [0, 1], channel K being "unknown".
        masks: bool [N, H, W].

    Returns:
        float32 [K + 1, H, W].
    """
    regions = regions_of(masks)
    num_regions, num_classes = int(regions.max()) + 1, len(evidence) - 1
    said = answers(evidence[None], 1.0)[0]
    votes = torch.zeros(num_regions, num_classes).index_add_(0, regions.flatten(), said.flatten(1).T)
    share, winner = (votes / votes.sum(1, keepdim=True).clamp(min=1e-6)).max(1)
    chosen = (share >= config.vote)[regions] & near_boundary(regions[None], num_regions, config.reach)[0]
    alone = F.one_hot(winner[regions], num_classes).permute(2, 0, 1) * said.sum(0)
    return torch.cat([torch.where(chosen, alone, evidence[:-1]), evidence[-1:]])


def regions_of(masks: Tensor) -> Tensor:
    """Which region a pixel is of: that of the smallest mask over it, or a connected piece of what no mask covers.

    Args:
        masks: bool [N, H, W].

    Returns:
        int64 [H, W], from 0 on.
    """
    painted = torch.zeros(masks.shape[1:], dtype=torch.int64)
    sizes = masks.flatten(1).sum(1)
    for number, place in enumerate(sizes.argsort(descending=True, stable=True).tolist(), 1):
        painted[masks[place]] = number
    pieces, _ = ndimage.label((painted == 0).numpy())
    regions: Tensor = torch.where(painted > 0, -painted, torch.from_numpy(pieces).long()).unique(return_inverse=True)[1]
    return regions


def mask_record(config: MaskConfig, precision: str) -> dict[str, str]:
    """What refined evidence depends on beside the grounder's own key."""
    local = Path(config.model).exists()
    model = f"sha256:{weights_digest(Path(config.model))}" if local else config.model
    settings = {name: str(value) for name, value in vars(config).items()}
    record = {**settings, "model": model, "precision": precision, "code": CODE}
    return {"refine": "sam", **{f"masks.{name}": value for name, value in record.items()}}
