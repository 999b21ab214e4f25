"""Losses that bear wrong labels, and CromSS's weights for labels that are probably right."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from s5.losses import Pool, alone, cross_entropy, dice_loss
from s5.losses.cross_entropy import mean_or_zero

NOISY_LOSSES = ("ce", "dice", "ce_dice", "gce", "sce", "bootstrap_soft", "bootstrap_hard")


@dataclass(frozen=True)
class NoisyLossConfig:
    """A loss on labels that may be wrong.

    Args:
        name: ``"ce"``, ``"dice"`` (soft Dice) or ``"ce_dice"``; ``"gce"``, generalised cross entropy (Zhang and
            Sabuncu, NeurIPS 2018); ``"sce"``, symmetric cross entropy (Wang et al., ICCV 2019);
            ``"bootstrap_soft"`` and ``"bootstrap_hard"`` (Reed et al., ICLR 2015 workshop).
        q: Of gce, in (0, 1]: near 0 it is the cross entropy, at 1 the absolute error.
        alpha: Of sce: weight of the cross entropy.
        beta: Of sce: weight of the reverse cross entropy.
        log_zero: Of sce: what stands for the logarithm of 0, below 0.
        keep: Of the bootstraps: weight of the label against the network's own opinion, in [0, 1].
    """

    name: str = "ce"
    q: float = 0.7
    alpha: float = 1.0
    beta: float = 1.0
    log_zero: float = -4.0
    keep: float = 0.8

    def __post_init__(self) -> None:
        if self.name not in NOISY_LOSSES:
            raise ValueError(f"loss.name: expected one of {', '.join(NOISY_LOSSES)}, got {self.name!r}")
        if not 0 < self.q <= 1:
            raise ValueError(f"loss.q: expected a value in (0, 1], got {self.q!r}")
        if self.alpha < 0 or self.beta < 0:
            raise ValueError(f"loss: alpha and beta must not be negative, got {self.alpha!r} and {self.beta!r}")
        if not self.log_zero < 0:
            raise ValueError(f"loss.log_zero: expected a value below 0, got {self.log_zero!r}")
        if not 0 <= self.keep <= 1:
            raise ValueError(f"loss.keep: expected a share in [0, 1], got {self.keep!r}")


def noisy_loss(
    logits_BKHW: Tensor,
    target_BHW: Tensor,
    config: NoisyLossConfig | None = None,
    *,
    ignore_index: int = 255,
    weights_BHW: Tensor | None = None,
    soft_BKHW: Tensor | None = None,
    pool: Pool = alone,
) -> Tensor:
    """The mean loss over the labelled pixels, in float32; zero, with a zero gradient, where there is none.

    With p the softmax at the label y: gce is ``(1 - p_y^q) / q``; sce is ``alpha CE - beta log_zero (1 - p_y)``, the
    reverse cross entropy of a label that is 1 in one place with ``log 0 = log_zero``; the bootstraps are the cross
    entropy against ``keep y + (1 - keep) p``, with p as it is or as its argmax, and no gradient through it.

    Args:
        logits_BKHW: floating point of any precision.
        target_BHW: class indices 0..K-1 or `ignore_index`.
        config: which loss; None for the cross entropy.
        weights_BHW: how much each pixel counts, at least 0: ``sum(w loss) / sum(w)``; in Dice in intersection and
            sizes alike. None weighs all alike.
        soft_BKHW: labels as probabilities, for the cross entropies alone; pixels that `target_BHW` ignores stay so.
        pool: sums over the processes that share the batch.
    """
    config = config or NoisyLossConfig()
    total = logits_BKHW.new_zeros((), dtype=torch.float32)
    if config.name in ("ce", "ce_dice") and weights_BHW is None and soft_BKHW is None:
        total = cross_entropy(logits_BKHW, target_BHW, ignore_index=ignore_index, pool=pool)
    elif config.name != "dice":
        with torch.autocast(device_type=logits_BKHW.device.type, enabled=False):
            losses_BHW = _pixel_losses(logits_BKHW.float(), target_BHW.long(), config, ignore_index, soft_BKHW)
            counts_BHW = (target_BHW != ignore_index).to(losses_BHW)
            if weights_BHW is not None:
                counts_BHW = counts_BHW * weights_BHW
            total = mean_or_zero((losses_BHW * counts_BHW).sum(), counts_BHW.sum(), pool)
    if config.name in ("dice", "ce_dice"):
        if weights_BHW is None:
            total = total + dice_loss(logits_BKHW, target_BHW, ignore_index=ignore_index, pool=pool)
        else:
            total = total + weighted_dice(logits_BKHW, target_BHW, weights_BHW, ignore_index=ignore_index, pool=pool)
    return total


def _pixel_losses(
    logits: Tensor, target: Tensor, config: NoisyLossConfig, ignore_index: int, soft: Tensor | None
) -> Tensor:
    log_p = logits.log_softmax(dim=1)
    label = target.masked_fill(target == ignore_index, 0).unsqueeze(1)  # any class: the pixel does not count
    log_p_y = log_p.gather(1, label).squeeze(1)
    if config.name == "gce":
        return -torch.expm1(config.q * log_p_y) / config.q
    entropy = -log_p_y if soft is None else -(soft * log_p).sum(dim=1)
    if config.name == "sce":
        return config.alpha * entropy - config.beta * config.log_zero * -torch.expm1(log_p_y)
    if config.name == "bootstrap_soft":
        return config.keep * entropy - (1 - config.keep) * (log_p.detach().exp() * log_p).sum(dim=1)
    if config.name == "bootstrap_hard":
        return config.keep * entropy - (1 - config.keep) * log_p.max(dim=1).values
    return entropy


def weighted_dice(
    logits_BKHW: Tensor,
    target_BHW: Tensor,
    weights_BHW: Tensor,
    *,
    ignore_index: int = 255,
    smooth: float = 1.0,
    pool: Pool = alone,
) -> Tensor:
    """`s5.losses.dice_loss` with a weight for each pixel, in the intersection and in both sizes (CromSS, 3.2)."""
    num_classes = logits_BKHW.shape[1]
    with torch.autocast(device_type=logits_BKHW.device.type, enabled=False):
        count_BHW = weights_BHW.float() * (target_BHW != ignore_index)
        prob_BKHW = logits_BKHW.float().softmax(dim=1)
        classes_K = torch.arange(num_classes, device=target_BHW.device)
        truth_BKHW = (target_BHW.unsqueeze(1) == classes_K[:, None, None]) * count_BHW.unsqueeze(1)
        overlap_K = (prob_BKHW * truth_BKHW).sum(dim=(0, 2, 3))
        truth_K = truth_BKHW.sum(dim=(0, 2, 3))
        size_K = (prob_BKHW * count_BHW.unsqueeze(1)).sum(dim=(0, 2, 3)) + truth_K
        overlap_K, size_K, truth_K = pool(torch.stack([overlap_K, size_K, truth_K])).unbind()
        present_K = truth_K > 0
        loss_K = 1 - (2 * overlap_K + smooth) / torch.where(present_K, size_K + smooth, torch.ones_like(size_K))
        return (loss_K * present_K).sum() / present_K.sum().clamp_min(1)


@dataclass(frozen=True)
class SmoothingConfig:
    """CromSS's labels that leave room for doubt: ``(1 - prior - uniform) y + prior P + uniform / K``.

    P is the prior of the place. CromSS takes it from the maps of a place at four seasons and its surroundings; here it
    is the share of each class in a window around the pixel, since most maps have one date.

    Args:
        prior: Weight of the prior, in [0, 1); CromSS has 0.15.
        uniform: Weight of the uniform distribution; CromSS has 0.05.
        window: Side of the window in pixels, odd.
    """

    prior: float = 0.0
    uniform: float = 0.0
    window: int = 9

    def __post_init__(self) -> None:
        if self.prior < 0 or self.uniform < 0 or self.prior + self.uniform >= 1:
            raise ValueError(
                f"smoothing: prior and uniform must be at least 0 and sum to less than 1, got {self.prior!r} and "
                f"{self.uniform!r}"
            )
        if self.window < 1 or self.window % 2 == 0:
            raise ValueError(f"smoothing.window: expected an odd number of pixels, got {self.window!r}")


def smoothed_labels(target_BHW: Tensor, config: SmoothingConfig, *, classes: int, ignore_index: int) -> Tensor | None:
    """Labels as probabilities [B, K, H, W], summing to 1 where there is a label; None where nothing is smoothed."""
    if config.prior == 0 and config.uniform == 0:
        return None
    known = (target_BHW != ignore_index).unsqueeze(1)
    classes_K = torch.arange(classes, device=target_BHW.device)
    truth = ((target_BHW.unsqueeze(1) == classes_K[:, None, None]) & known).float()
    side = config.window
    counts = F.avg_pool2d(truth, side, stride=1, padding=side // 2)
    labelled = F.avg_pool2d(known.float(), side, stride=1, padding=side // 2)
    around = counts / labelled.clamp_min(1e-6)
    return (1 - config.prior - config.uniform) * truth + config.prior * around + config.uniform / classes


@dataclass(frozen=True)
class SampleSelectionConfig:
    """CromSS's weighted sample selection (TGRS 2025).

    Args:
        enabled: Whether pixels are weighed.
        keep: Share of each class that counts fully in the end, in (0, 1]; CromSS has 0.5.
        ramp: Share of the steps over which it falls from 1 to that; CromSS has 80 of 200 epochs.
    """

    enabled: bool = False
    keep: float = 0.5
    ramp: float = 0.4

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise ValueError(f"selection.keep: expected a share in (0, 1], got {self.keep!r}")
        if not 0 <= self.ramp <= 1:
            raise ValueError(f"selection.ramp: expected a share of the steps in [0, 1], got {self.ramp!r}")

    def ramp_at(self, progress: float) -> float:
        """``exp(-5 (1 - t)^2)`` with t the progress through the ramp, then 1."""
        if self.ramp == 0 or progress >= self.ramp:
            return 1.0
        return math.exp(-5 * (1 - progress / self.ramp) ** 2)

    def share_at(self, progress: float) -> float:
        """``1 - exp(-5 (1 - t)^2) (1 - keep)`` with t the progress through the ramp, then `keep`."""
        ramp = self.ramp_at(progress)
        return self.keep if ramp == 1 else 1 - ramp * (1 - self.keep)


def selection_weights(logits_BKHW: Tensor, target_BHW: Tensor, share: float, *, ignore_index: int = 255) -> Tensor:
    """How much each label counts: `weights_of_labels` by the probability that the network gives it."""
    confidence_BHW = label_confidence(logits_BKHW, target_BHW, ignore_index=ignore_index)
    return weights_of_labels(confidence_BHW, target_BHW, share, classes=logits_BKHW.shape[1], ignore_index=ignore_index)


@torch.no_grad()
def label_confidence(logits_BKHW: Tensor, target_BHW: Tensor, *, ignore_index: int = 255) -> Tensor:
    """The probability of each label, float32 [B, H, W] without a gradient; of any class where there is none."""
    label = target_BHW.long().masked_fill(target_BHW == ignore_index, 0)
    return logits_BKHW.float().softmax(dim=1).gather(1, label.unsqueeze(1)).squeeze(1)


@torch.no_grad()
def weights_of_labels(
    confidence_BHW: Tensor, target_BHW: Tensor, share: float, *, classes: int, ignore_index: int = 255
) -> Tensor:
    """How much each label counts: ``clip(c / c_r, 0, 1)`` with c the confidence in it.

    c_r is, for each class, the confidence that the share `share` of its pixels in these images reaches: these count 1,
    the others less, the less the network believes their label (CromSS, TGRS 2025; soft, not hard, selection). A class
    of which c_r is 0 counts fully.

    Args:
        confidence_BHW: At least 0.
        share: In (0, 1]; see `SampleSelectionConfig.share_at`.

    Returns:
        float32 [B, H, W] in [0, 1], without a gradient; 0 where there is no label.
    """
    weights_BHW = torch.zeros_like(confidence_BHW)
    for k in range(classes):
        here = (target_BHW == k) & (target_BHW != ignore_index)
        own = confidence_BHW[here]
        if own.numel():
            fully = max(1, math.ceil(share * own.numel()))
            least = own.kthvalue(own.numel() - fully + 1).values
            weights_BHW[here] = (own / least).nan_to_num(nan=1.0).clamp(max=1)
    return weights_BHW
