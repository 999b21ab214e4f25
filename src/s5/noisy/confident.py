"""The rules of confident learning: which labels are probably wrong, and which corrections are worth making."""

from __future__ import annotations

import torch
from torch import Tensor


class ClassThresholds:
    """The mean probability of class k over the pixels labelled k: t_k (Northcutt et al., JAIR 2021, eq. 2)."""

    def __init__(self, classes: int) -> None:
        self._sums = torch.zeros(classes, dtype=torch.float64)
        self._counts = torch.zeros(classes, dtype=torch.float64)

    def add(self, prob_BKHW: Tensor, labels_BHW: Tensor, ignore_index: int) -> None:
        """Count probabilities of a network that has not learnt from these pixels."""
        known = labels_BHW != ignore_index
        label = labels_BHW.long().masked_fill(~known, 0)
        own = prob_BKHW.gather(1, label.unsqueeze(1)).squeeze(1)[known].double()
        label = label[known]
        self._sums.index_add_(0, label, own)
        self._counts.index_add_(0, label, torch.ones_like(own))

    def values(self) -> Tensor:
        """float64 [K]; infinite for a class that no pixel is labelled with, which then is never proposed."""
        return torch.where(self._counts > 0, self._sums / self._counts.clamp_min(1), torch.inf)


def confident_labels(
    prob_BKHW: Tensor, labels_BHW: Tensor, thresholds_K: Tensor, *, margin: float = 0.0, ignore_index: int = 255
) -> tuple[Tensor, Tensor]:
    """Corrected labels, and the confidence that the given ones are right.

    Confident learning (Northcutt et al., JAIR 2021): of the classes whose probability reaches their threshold, the most
    probable one is the pixel's confident class. Where it is another than the label, the label is taken to be wrong.

    Args:
        prob_BKHW: Softmax of a network that has not learnt from these pixels.
        thresholds_K: From `ClassThresholds`.
        margin: How much more probable than the label the confident class must be.

    Returns:
        Labels, uint8 [B, H, W], `ignore_index` where there was no label; and float32 [B, H, W] in [0, 1]: the
        probability of the label against that of the most probable other class, ``p_y / (p_y + max_{k != y} p_k)``.
    """
    known = labels_BHW != ignore_index
    label = labels_BHW.long().masked_fill(~known, 0).unsqueeze(1)
    own = prob_BKHW.gather(1, label).squeeze(1)
    others = prob_BKHW.scatter(1, label, 0.0).amax(dim=1)
    confidence = own / (own + others).clamp_min(1e-12)
    reaches = prob_BKHW >= thresholds_K.to(prob_BKHW)[:, None, None]
    best, proposed = torch.where(reaches, prob_BKHW, -1.0).max(dim=1)
    wrong = known & (best >= 0) & (proposed != label.squeeze(1)) & (best - own >= margin)
    corrected = torch.where(wrong, proposed, labels_BHW.long()).to(torch.uint8)
    return corrected, confidence * known


class ChangeTrust:
    """Which changes of a label are worth making, counted on tiles whose truth is known.

    A network that has learnt from a wrong map repeats its habits, and then finds labels wrong that are right. A few
    clean tiles tell which of its changes, from each class to each other, it may be trusted with. Pixels of a tile are
    wrong together, so that tiles are the sample: with ``g_i`` the pixels of tile i that a change puts right less those
    that it puts wrong, it is trusted where ``sum g_i > 2 sqrt(sum g_i^2)``, two standard errors over no gain.
    """

    def __init__(self, classes: int) -> None:
        self._gains = torch.zeros(classes, classes, dtype=torch.float64)
        self._squares = torch.zeros_like(self._gains)

    def add(self, labels_BHW: Tensor, proposed_BHW: Tensor, truth_BHW: Tensor, ignore_index: int) -> None:
        """Count where the label and the proposed class differ: the proposal is right, or the label was."""
        for labels, proposed, truth in zip(labels_BHW, proposed_BHW, truth_BHW, strict=True):
            known = (labels != ignore_index) & (truth != ignore_index) & (labels != proposed)
            label, new, right = (values[known].long() for values in (labels, proposed, truth))
            gain = torch.zeros_like(self._gains)
            gain.index_put_((label, new), (new == right).double() - (label == right).double(), accumulate=True)
            self._gains += gain
            self._squares += gain**2

    def allowed(self) -> Tensor:
        """bool [K, K], from a class to a class."""
        return self._gains > 2 * self._squares.sqrt()


def only_allowed(labels_BHW: Tensor, proposed_BHW: Tensor, allowed_KK: Tensor, ignore_index: int) -> Tensor:
    """The proposed classes where a change to them is allowed, else the labels; uint8 [B, H, W]."""
    known = labels_BHW != ignore_index
    pair = tuple(values.long().masked_fill(~known, 0) for values in (labels_BHW, proposed_BHW))
    return torch.where(known & allowed_KK[pair], proposed_BHW, labels_BHW).to(torch.uint8)
