"""FixMatch (Sohn et al., NeurIPS 2020) for segmentation: pseudo-labels of the weak view teach the strong one."""

from __future__ import annotations

import torch
from torch import Tensor

from s5.losses import consistency_loss
from s5.semisup.step import Step, StrongView

_COUNTS = torch.finfo(torch.float32).tiny  # any weight over zero counts


def fixmatch(step: Step) -> tuple[Tensor, Tensor]:
    """One strong view; one student pass over it and the labelled images (S5's S4P)."""
    view = step.strong_view()
    logits_labeled, logits_strong = step.student(step.labeled, view.images)
    return logits_labeled, pseudo_label_loss(step, view, logits_strong)


def pseudo_label_loss(step: Step, view: StrongView, logits_BKHW: Tensor) -> Tensor:
    """Cross entropy of a strong view with the pseudo-labels, by their weights, over all valid pixels."""
    classes, weights = view.mixed(step.pseudo.classes), view.mixed(step.pseudo.weights)
    return consistency_loss(
        logits_BKHW,
        classes,
        weights,
        threshold=_COUNTS,
        valid_BHW=view.mixed(step.valid),
        weight_BHW=weights * step.class_weights[classes],
        pool=step.pool,
    )
