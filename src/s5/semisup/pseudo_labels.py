"""From teacher logits to pseudo-labels, and how much each of them counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from s5.losses import Pool, alone
from s5.semisup.freematch import FreeMatch
from s5.semisup.softmatch import SoftMatch
from s5.semisup.thresholds import Fixed, PerClass, Prediction, Rule, Share
from s5.types import LabelSpace, Purified

_THRESHOLDS = ("fixed", "per_class", "share", "freematch", "softmatch")


@dataclass(frozen=True)
class PseudoLabelConfig:
    """Which pixels of the teacher's prediction count.

    Args:
        tau: Smallest confidence of a pixel that counts, in (0, 1]; unused by ``"freematch"`` and ``"softmatch"``.
        threshold: ``"fixed"`` (FixMatch) or ``"per_class"``: tau is lowered for classes that the teacher
            is less sure of, by the moving mean of its confidence in them relative to the surest class
            (FreeMatch, Wang et al. 2023, eq. 6-8, with tau in place of the global threshold), or ``"share"``: every
            valid pixel counts, with the share of its image's pixels over tau as weight (DACS, Tranheden et al. 2021),
            so that a class which the teacher is never sure of is not lost; ``"freematch"``: the global threshold too
            follows the teacher (eq. 5); ``"softmatch"``: every valid pixel counts, by a truncated Gaussian of its
            confidence (Chen et al. 2023).
        momentum: Of the moving means.
        uniform_alignment: Whether SoftMatch gives unlikely classes more weight.
    """

    tau: float = 0.95
    threshold: str = "fixed"
    momentum: float = 0.99
    uniform_alignment: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.tau <= 1:
            raise ValueError(f"pseudo_labels.tau: expected a confidence in (0, 1], got {self.tau!r}")
        if self.threshold not in _THRESHOLDS:
            raise ValueError(f"pseudo_labels.threshold: expected one of {_THRESHOLDS}, got {self.threshold!r}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"pseudo_labels.momentum: expected a value in [0, 1), got {self.momentum!r}")
        if self.uniform_alignment and self.threshold != "softmatch":
            raise ValueError(
                f"pseudo_labels.uniform_alignment: expected threshold 'softmatch', which alone has it, got "
                f"{self.threshold!r}; set it to false, or threshold to softmatch"
            )


@dataclass(frozen=True)
class PseudoLabels:
    """Shape: classes int64 [B, H, W]; confidence and weights float32 [B, H, W], a weight of 0 leaves a pixel out."""

    classes: torch.Tensor
    confidence: torch.Tensor
    weights: torch.Tensor


class PseudoLabeler:
    """Pseudo-labels of a stream of batches, with a rule that may remember what it has seen."""

    def __init__(
        self, config: PseudoLabelConfig, num_classes: int, *, device: torch.device, pool: Pool = alone
    ) -> None:
        self.num_classes, self._pool = num_classes, pool
        self._rule = _make_rule(config, num_classes, device, pool)

    @torch.no_grad()
    def label(self, logits: torch.Tensor, valid: torch.Tensor, purified: Purified | None = None) -> PseudoLabels:
        """Args: logits float32 [B, K, H, W] of the teacher; valid bool [B, H, W]; purified: what takes their place."""
        probabilities, confidence, classes = prediction_of(logits) if purified is None else purified
        weights = self._rule.weights(Prediction(probabilities, confidence, classes, valid))
        return PseudoLabels(classes, confidence, weights)

    @torch.no_grad()
    def metrics(
        self, pseudo: PseudoLabels, valid: torch.Tensor, truth: torch.Tensor, labels: LabelSpace
    ) -> dict[str, torch.Tensor]:
        """Mean weight of the valid pixels, and by weight: accuracy where truth is known, shares of the classes.

        Where a pixel counts or does not, the mean weight is the share of confident pixels.
        """
        weights = pseudo.weights
        known = weights * (truth != labels.ignore_index)
        right = known * (truth == pseudo.classes)
        # not bincount, nor indexing by a mask: both would wait for the device
        by_class = weights.new_zeros(self.num_classes).index_add_(0, pseudo.classes.flatten(), weights.flatten())
        sums = torch.stack([weights.sum(), valid.sum().to(weights), known.sum(), right.sum()])
        pooled = self._pool(torch.cat([sums, by_class]))
        weight, num_valid, num_known, num_right = pooled[:4].unbind()
        share = pooled[4:] / _one_for_zero(weight)
        return {
            "confident_share": weight / num_valid.clamp(min=1),
            "pseudo_accuracy": torch.where(num_known > 0, num_right / _one_for_zero(num_known), torch.nan),
            **{f"share_{name}": value for name, value in zip(labels.classes, share, strict=True)},
        }

    def state_dict(self) -> dict[str, Any]:
        return dict(self._rule.state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in self._rule.state.items():
            value.copy_(state[name])


def prediction_of(logits: torch.Tensor) -> Purified:
    """A teacher's prediction as it is."""
    probabilities = logits.softmax(1)
    return Purified(probabilities, *probabilities.max(1))


@torch.no_grad()
def purification_metrics(
    logits: torch.Tensor, purified: Purified, valid: torch.Tensor, truth: torch.Tensor, ignore_index: int, pool: Pool
) -> dict[str, torch.Tensor]:
    """What purification did to a batch, over all valid pixels: shares relabelled, and of a higher or lower confidence
    than before; accuracy before and after where truth is known, else NaN."""
    _, confidence, classes = prediction_of(logits)
    known = valid & (truth != ignore_index)
    change = purified.confidence - confidence
    counted = [
        valid,
        valid & (classes != purified.classes),
        valid & (change > _NOTICEABLE),
        valid & (change < -_NOTICEABLE),
        known,
        known & (truth == classes),
        known & (truth == purified.classes),
    ]
    total, *shares, num_known, before, after = pool(torch.stack([one.sum() for one in counted]).float()).unbind()
    names = ("purified_relabelled", "purified_raised", "purified_lowered")
    accuracies = {"teacher_accuracy": before, "purified_accuracy": after}
    return {
        **{name: share / _one_for_zero(total) for name, share in zip(names, shares, strict=True)},
        **{
            name: torch.where(num_known > 0, right / _one_for_zero(num_known), torch.nan)
            for name, right in accuracies.items()
        },
    }


_NOTICEABLE = 0.01  # change of a confidence


def _make_rule(config: PseudoLabelConfig, num_classes: int, device: torch.device, pool: Pool) -> Rule:
    if config.threshold == "per_class":
        return PerClass(config.tau, num_classes, momentum=config.momentum, device=device, pool=pool)
    if config.threshold == "freematch":
        return FreeMatch(num_classes, momentum=config.momentum, device=device, pool=pool)
    if config.threshold == "softmatch":
        return SoftMatch(
            num_classes,
            momentum=config.momentum,
            uniform_alignment=config.uniform_alignment,
            device=device,
            pool=pool,
        )
    return Share(config.tau) if config.threshold == "share" else Fixed(config.tau)


def _one_for_zero(total: torch.Tensor) -> torch.Tensor:
    return torch.where(total > 0, total, torch.ones_like(total))
