"""Mean teacher (Tarvainen & Valpola, NeurIPS 2017) for segmentation: the average's probabilities are the targets."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from s5.losses import DISTANCES, soft_target_loss
from s5.semisup.step import Step


@dataclass(frozen=True)
class MeanTeacherConfig:
    """How far the student is from its teacher.

    Args:
        distance: ``"mse"`` between probabilities, as in the paper, or ``"kl"``, the divergence from the teacher's.
    """

    distance: str = "mse"

    def __post_init__(self) -> None:
        if self.distance not in DISTANCES:
            raise ValueError(f"mean_teacher.distance: expected one of {DISTANCES}, got {self.distance!r}")


def mean_teacher(step: Step, config: MeanTeacherConfig) -> tuple[Tensor, Tensor]:
    """One strong view, whose every valid pixel counts; there is no threshold.

    The strong view has CutMix, the teacher's probabilities being moved along (French et al., BMVC 2020).
    """
    view = step.strong_view()
    logits_labeled, logits_strong = step.student(step.labeled, view.images)
    loss = soft_target_loss(
        logits_strong,
        view.mixed(step.teacher_logits.softmax(1)),
        distance=config.distance,
        valid_BHW=view.mixed(step.valid),
        weight_BHW=step.class_weights[view.mixed(step.pseudo.classes)],
        pool=step.pool,
    )
    return logits_labeled, loss
