"""What each location of a detector is to say, and how wrong it is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from s5.detection.codes import decode_locations, log_sides
from s5.detection.targets import LEAST_SIDE, Targets
from s5.losses import Pool, alone

_SIGMA = 0.25  # of a side: how fast the wanted score falls from the centre of a box to its rim
_LEAST_SIGMA = 0.4  # of a stride
_TAKES_BOX = 0.2  # a location with less of a score than this learns no box
_LEVEL_ENDS = 16.0  # strides; a level takes boxes whose long side is at most so long, and the last one the rest


def detection_loss(
    logits: Tensor, codes: Tensor, centres: Tensor, strides: Tensor, targets: Targets, pool: Pool = alone
) -> dict[str, Tensor]:
    """Loss of scores and boxes, finite whatever the targets are; `loss` is their sum.

    The wanted score of a location is a Gaussian of its place in the box over that of the box's best location, which
    thus is to say 1 (as heat maps of CenterNet, Zhou et al., 2019); it is taught by the quality focal loss (Li et al.,
    NeurIPS 2020). A box's error is measured in the frame and in the sides of the true box, so that a pixel across a
    narrow box costs more than one along it.

    Args:
        logits: [B, L, K]. codes: [B, L, 6]. centres: [L, 2]. strides: [L].
        targets: `valid` is that of the locations, [B, L].
        pool: Sums over the processes that share the batch.
    """
    wanted, box_of, weight, ignored = assign(centres, strides, targets, logits.shape[-1])
    counts = (targets.valid & ~ignored)[..., None]
    probability = logits.sigmoid()
    focal = (wanted - probability).abs().square() * F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    boxes = pool((targets.real & (targets.labels >= 0)).sum().float()).clamp(min=1)
    score_loss = pool(torch.where(counts, focal, 0.0).sum()) / boxes
    image, place = weight.nonzero(as_tuple=True)
    truth = targets.boxes[image, box_of[image, place]].float()
    share = weight[image, place]
    errors = box_error(codes[image, place], centres[place], strides[place], truth)
    box_loss = pool((errors * share).sum()) / pool(share.sum()).clamp(min=1.0)
    return {"loss": score_loss + box_loss, "score_loss": score_loss.detach(), "box_loss": box_loss.detach()}


def box_error(codes: Tensor, centres: Tensor, strides: Tensor, truth: Tensor) -> Tensor:
    """Error [P] of codes [P, 6] at locations [P, 2] against true boxes [P, 5] in le90 form."""
    predicted = decode_locations(codes, centres, strides)
    offset = predicted[:, :2] - truth[:, :2]
    cos, sin = truth[:, 4].cos(), truth[:, 4].sin()
    local = torch.stack([offset[:, 0] * cos + offset[:, 1] * sin, offset[:, 1] * cos - offset[:, 0] * sin], dim=1)
    local = local / truth[:, 2:4]
    sides = codes[:, 2:4] - log_sides(truth, strides)
    turn = codes[:, 4:] - torch.stack([(2 * truth[:, 4]).cos(), (2 * truth[:, 4]).sin()], dim=1)
    # A square looks the same whichever way its long side points.
    turn = turn * (1 - truth[:, 3:4] / truth[:, 2:3]).clamp(min=0.05)
    errors = torch.cat([4 * local, 2 * sides, turn], dim=1)
    return F.smooth_l1_loss(errors, torch.zeros_like(errors), reduction="none", beta=0.2).sum(1)


@torch.no_grad()
def assign(centres: Tensor, strides: Tensor, targets: Targets, classes: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Wanted scores [B, L, K], which box each location gives [B, L], its weight [B, L], and what is ignored [B, L]."""
    boxes = targets.boxes.float()
    sides = boxes[..., 2:4].clamp(min=LEAST_SIDE)
    offset = centres[None, :, None] - boxes[:, None, :, :2]  # [B, L, M, 2]
    cos, sin = boxes[..., 4].cos()[:, None], boxes[..., 4].sin()[:, None]
    along = offset[..., 0] * cos + offset[..., 1] * sin
    across = offset[..., 1] * cos - offset[..., 0] * sin
    inside = (along.abs() <= sides[:, None, :, 0] / 2) & (across.abs() <= sides[:, None, :, 1] / 2)
    learnt = targets.learnt()
    ignored = (inside & (targets.real & ~learnt)[:, None]).any(-1)
    least = (_LEAST_SIGMA * strides)[None, :, None]
    sigma = [torch.maximum(_SIGMA * sides[:, None, :, i], least) for i in (0, 1)]
    score = torch.exp(-0.5 * ((along / sigma[0]).square() + (across / sigma[1]).square()))
    score = score * (_on_level(strides, sides[..., 0]) & learnt[:, None] & targets.valid[..., None])
    best = score.amax(1, keepdim=True)
    score = torch.where(best > 0, score / best.clamp(min=1e-12), 0.0).nan_to_num(0.0)
    number = boxes.shape[1]
    wanted = torch.zeros(*score.shape[:2], classes, device=boxes.device)
    if number == 0:
        empty = torch.zeros(score.shape[:2], device=boxes.device)
        return wanted, empty.long(), empty, ignored
    label = targets.labels.clamp(min=0)[:, None].expand(-1, score.shape[1], -1)
    wanted.scatter_reduce_(2, label, score, "amax")
    top = score.max(-1)
    weight = torch.where(top.values >= _TAKES_BOX, top.values, 0.0)
    return wanted, top.indices, weight, ignored & (weight == 0)


def _on_level(strides: Tensor, long_side: Tensor) -> Tensor:
    """Whether a location [L] is of the level that takes a box [B, M], as [B, L, M]."""
    levels = strides.unique()
    ends = torch.cat([levels[:-1] * _LEVEL_ENDS, levels.new_tensor([torch.inf])])
    level_of_box = torch.searchsorted(ends, long_side.contiguous())
    level_of_location = torch.searchsorted(levels, strides)
    return level_of_location[None, :, None] == level_of_box[:, None]
