"""UniMatch V2 (Yang et al., TPAMI 2025): two strong views whose features lose complementary channels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from s5.seeds import Draws
from s5.semisup.fixmatch import pseudo_label_loss
from s5.semisup.step import ChangeMaps, Step


@dataclass(frozen=True)
class UniMatchV2Config:
    """How features are dropped.

    Args:
        dropped: Share of the unlabelled images whose channels are dropped, in [0, 1]; 0.5 is the authors'. It is
            rounded up to whole images.
    """

    dropped: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.dropped <= 1:
            raise ValueError(f"unimatch_v2.dropped: expected a share of the images in [0, 1], got {self.dropped!r}")


def unimatch_v2(step: Step, config: UniMatchV2Config) -> tuple[Tensor, Tensor]:
    """Two strong views in one student pass, both taught by the one pseudo-label of the weak view; their mean loss."""
    first, second = step.strong_view(), step.strong_view()
    batch = len(step.unlabeled)
    dropped = step.drawn.some(batch, config.dropped)
    change_maps = complementary_dropout(len(step.labeled), dropped, step.drawn)
    logits_labeled, logits_first, logits_second = step.student(
        step.labeled, first.images, second.images, change_maps=change_maps
    )
    loss = (pseudo_label_loss(step, first, logits_first) + pseudo_label_loss(step, second, logits_second)) / 2
    return logits_labeled, loss


def complementary_dropout(num_labeled: int, dropped: Tensor, drawn: Draws) -> ChangeMaps:
    """Channel dropout for a batch of labelled images, first views and second views, in this order.

    Labelled images keep all channels. Maps of one width lose the same channels, as the four of a ViT do in the authors'
    code; where widths differ, as in a convolutional encoder, each draws its own.

    Args:
        num_labeled: How many labelled images there are.
        dropped: bool [B], False for unlabelled images that keep all their channels, in both views.
        drawn: The draws of the unlabelled images.
    """
    masks: dict[int, Tensor] = {}

    def change(maps: list[Tensor]) -> list[Tensor]:
        for width in (one.shape[1] for one in maps):
            if width not in masks:
                views = complementary_masks(width, dropped, drawn)
                masks[width] = torch.cat([torch.ones(num_labeled, width), *views])[:, :, None, None]
        return [one * masks[one.shape[1]].to(one) for one in maps]

    return change


def complementary_masks(channels: int, dropped: Tensor, drawn: Draws) -> tuple[Tensor, Tensor]:
    """Two float32 [B, D] masks: a channel is doubled in one and dropped in the other, at even odds; they sum to 2.

    Args:
        dropped: bool [B], False for images whose channels all stay: a mask of 1 in both.
    """
    first = torch.where(dropped[:, None], 2.0 * drawn.coins(len(dropped), channels), 1.0)
    return first, 2.0 - first
