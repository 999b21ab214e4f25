"""From teacher logits to pseudo-labels, and which of them are trusted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from s5.types import LabelSpace

_THRESHOLDS = ("fixed", "per_class", "share")


@dataclass(frozen=True)
class PseudoLabelConfig:
    """Which pixels of the teacher's prediction count.

    Args:
        tau: Smallest confidence of a pixel that counts, in (0, 1].
        threshold: ``"fixed"`` (FixMatch) or ``"per_class"``: tau is lowered for classes that the teacher
            is less sure of, by the moving mean of its confidence in them relative to the surest class
            (FreeMatch, Wang et al. 2023, eq. 6-8, with tau in place of the global threshold), or ``"share"``: every
            valid pixel counts, with the share of its image's pixels over tau as weight (DACS, Tranheden et al. 2021),
            so that a class which the teacher is never sure of is not lost.
        momentum: Of the moving means.
    """

    tau: float = 0.95
    threshold: str = "fixed"
    momentum: float = 0.99

    def __post_init__(self) -> None:
        if not 0 < self.tau <= 1:
            raise ValueError(f"pseudo_labels.tau: expected a confidence in (0, 1], got {self.tau!r}")
        if self.threshold not in _THRESHOLDS:
            raise ValueError(f"pseudo_labels.threshold: expected one of {_THRESHOLDS}, got {self.threshold!r}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"pseudo_labels.momentum: expected a value in [0, 1), got {self.momentum!r}")


@dataclass(frozen=True)
class PseudoLabels:
    """Shape: classes int64 [B, H, W]; confidence and weights float32 [B, H, W], a weight of 0 leaves a pixel out."""

    classes: torch.Tensor
    confidence: torch.Tensor
    weights: torch.Tensor


class PseudoLabeler:
    """Pseudo-labels of a stream of batches; keeps the moving mean of the confidence in each class."""

    def __init__(self, config: PseudoLabelConfig, num_classes: int, *, device: torch.device) -> None:
        self.config, self.num_classes = config, num_classes
        self._class_confidence = torch.full((num_classes,), 1.0 / num_classes, device=device)

    @torch.no_grad()
    def label(self, logits: torch.Tensor, valid: torch.Tensor) -> PseudoLabels:
        """Args: logits float32 [B, K, H, W] of the teacher; valid bool [B, H, W]."""
        confidence, classes = logits.softmax(1).max(1)
        thresholds = torch.tensor(self.config.tau, device=logits.device)
        if self.config.threshold == "per_class":
            self._follow(confidence, classes, valid)
            thresholds = (self._class_confidence / self._class_confidence.max() * self.config.tau)[classes]
        weights = ((confidence >= thresholds) & valid).float()
        if self.config.threshold == "share":
            share = weights.sum((1, 2)) / valid.sum((1, 2)).clamp(min=1)
            weights = share[:, None, None] * valid
        return PseudoLabels(classes, confidence, weights)

    def _follow(self, confidence: torch.Tensor, classes: torch.Tensor, valid: torch.Tensor) -> None:
        weight = valid.flatten().float()
        count = torch.zeros_like(self._class_confidence).index_add_(0, classes.flatten(), weight)
        total = torch.zeros_like(self._class_confidence).index_add_(0, classes.flatten(), confidence.flatten() * weight)
        mean = torch.where(count > 0, total / count.clamp(min=1), self._class_confidence)
        self._class_confidence.lerp_(mean, 1 - self.config.momentum)

    @torch.no_grad()
    def metrics(
        self, pseudo: PseudoLabels, valid: torch.Tensor, truth: torch.Tensor, labels: LabelSpace
    ) -> dict[str, torch.Tensor]:
        """Confident share of the valid pixels, accuracy of the confident ones where truth is known, class shares."""
        counted = pseudo.weights > 0
        known = counted & (truth != labels.ignore_index)
        right = (known & (truth == pseudo.classes)).sum()
        share = torch.bincount(pseudo.classes[counted], minlength=self.num_classes).float() / counted.sum().clamp(min=1)
        return {
            "confident_share": counted.sum() / valid.sum().clamp(min=1),
            "pseudo_accuracy": torch.where(known.any(), right / known.sum().clamp(min=1), torch.nan),
            **{f"share_{name}": value for name, value in zip(labels.classes, share, strict=True)},
        }

    def state_dict(self) -> dict[str, Any]:
        return {"class_confidence": self._class_confidence}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._class_confidence.copy_(state["class_confidence"])
