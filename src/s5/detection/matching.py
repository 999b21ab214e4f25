"""Which anchor or proposal stands for which object, and which of them a step learns from."""

from __future__ import annotations

import torch
from torch import Tensor

POSITIVE, NEGATIVE, IGNORED = 1, 0, -1


def match(
    iou: Tensor, ignored_iou: Tensor, *, positive: float, negative: float, rescue: float | None = None
) -> tuple[Tensor, Tensor]:
    """What each candidate is and the object it overlaps most: int64 [N] of `POSITIVE`, `NEGATIVE`, `IGNORED`, and [N].

    Args:
        iou: [N, G] with the objects.
        ignored_iou: [N, I] with what is to be ignored: a candidate on it is no negative.
        positive: Least IoU of a positive.
        negative: IoU below which a candidate is negative; what lies between is ignored.
        rescue: Least IoU with which an object's best candidates are positive in any case; None rescues none.
    """
    number = len(iou)
    kind = torch.full((number,), NEGATIVE, dtype=torch.int64, device=iou.device)
    if ignored_iou.shape[1]:
        kind[ignored_iou.amax(1) >= negative] = IGNORED
    if iou.shape[1] == 0:
        return kind, torch.zeros_like(kind)
    most, of = iou.max(1)
    kind[(most >= negative) & (most < positive)] = IGNORED
    kind[most >= positive] = POSITIVE
    if rescue is not None and number:
        best = iou.amax(0)
        rescued, objects = ((iou == best) & (best >= rescue)).nonzero(as_tuple=True)
        kind[rescued], of[rescued] = POSITIVE, objects
    return kind, of


def sample(kind: Tensor, number: int, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Places of at most `number` candidates, of which at most a share positive: positives [P] and negatives [Q].

    The draws depend on the generator and on `kind` alone (R-CNN's balanced sampling).
    """
    positives = _some((kind == POSITIVE).nonzero()[:, 0], int(number * share), generator)
    negatives = _some((kind == NEGATIVE).nonzero()[:, 0], number - len(positives), generator)
    return positives, negatives


def _some(places: Tensor, most: int, generator: torch.Generator) -> Tensor:
    if len(places) <= most:
        return places
    return places[torch.randperm(len(places), generator=generator)[:most].sort().values.to(places.device)]
