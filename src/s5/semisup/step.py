"""A step as its method gets it: all that methods share, up to the student's pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from s5.data.transforms import PhotometryConfig, augment_photometry
from s5.losses import Pool
from s5.seeds import Draws
from s5.semisup.cutmix import CutMixConfig, draw_boxes, partners_of, paste
from s5.semisup.pseudo_labels import PseudoLabels

ChangeMaps = Callable[[list[Tensor]], list[Tensor]]
"""What may be done to the encoder's maps on their way to the decoder."""


class Student(Protocol):
    """One training pass of the student over several batches of scaled images; returns the logits of each."""

    def __call__(self, *images: Tensor, change_maps: ChangeMaps | None = None) -> tuple[Tensor, ...]: ...


@dataclass(frozen=True)
class StrongView:
    """Images under strong augmentation and CutMix, and the way to move along what belongs to their pixels.

    Shape: images float32 [B, C, H, W]; boxes bool [B, H, W]; partners int64 [B].
    """

    images: Tensor
    boxes: Tensor
    partners: Tensor

    def mixed(self, values: Tensor) -> Tensor:
        """`values` of the weak view, [B, H, W] or [B, K, H, W], where the boxes have moved them."""
        return paste(values, self.boxes, self.partners)


@dataclass(frozen=True)
class Step:
    """What there is when it is the student's turn.

    Args:
        labeled: Labelled images, augmented and scaled, float32 [L, C, H, W].
        unlabeled: Weak view of the unlabelled images, scaled, float32 [B, C, H, W].
        valid: bool [B, H, W], False where padding or nodata.
        teacher_logits: Of the weak view, float32 [B, K, H, W], without a gradient.
        pseudo: Made of them.
        class_weights: float32 [K], of the losses.
        student: The network that learns.
        pool: Sums over the processes that share the batch, for losses.
        photometry: The strong colour augmentation.
        cutmix: How unlabelled images are mixed.
        drawn: The draws of these unlabelled images.
    """

    labeled: Tensor
    unlabeled: Tensor
    valid: Tensor
    teacher_logits: Tensor
    pseudo: PseudoLabels
    class_weights: Tensor
    student: Student
    pool: Pool
    photometry: PhotometryConfig
    cutmix: CutMixConfig
    drawn: Draws

    def strong_view(self) -> StrongView:
        """A strong view of the unlabelled images; each call draws another one."""
        batch, height, width = self.valid.shape
        boxes = draw_boxes(batch, height, width, self.cutmix, self.drawn).to(self.valid.device)
        partners = partners_of(batch).to(self.valid.device)
        strong = augment_photometry(self.unlabeled, self.photometry, self.drawn)
        return StrongView(paste(strong, boxes, partners), boxes, partners)


StepMethod = Callable[[Step], tuple[Tensor, Tensor]]
"""A method: runs the student, and returns the logits of the labelled images and the loss on the unlabelled ones."""
