"""How sure a network is of a tile: entropy, confidence and predicted class shares (S5, equation 1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch

EntropyClasses = Literal["all", "foreground", "foreground_renormalised"]

# exp(-80) is still a normal float32; what lies below adds nothing to a sum that is at least 1, and 0 * log 0 stays 0
_LOWEST_LOGIT = -80.0


@dataclass(frozen=True)
class TileStatistics:
    """What a network says of each tile of a batch, over its valid pixels; NaN for a tile that has none.

    Shape:
        entropy, confidence: float32 [B] in [0, 1]. shares: float32 [B, K], rows sum to 1.
        valid_share: float32 [B], the share of pixels that are valid.
    """

    entropy: torch.Tensor
    confidence: torch.Tensor
    shares: torch.Tensor
    valid_share: torch.Tensor


def pixel_entropy(
    logits_BKHW: torch.Tensor,
    valid_BHW: torch.Tensor,
    *,
    classes: EntropyClasses = "all",
    background_index: int | None = None,
) -> torch.Tensor:
    """Mean entropy of a tile's valid pixels, divided by its largest possible value; S5, equation 1.

    E(x) = -1/|V| * sum_{i in V} sum_k p_k(i) log p_k(i) / log K. The paper's sum leaves out the background and does
    not say whether the rest is renormalised, so that both readings are here.

    Args:
        logits_BKHW: Network output, any float type; computed in float32.
        valid_BHW: bool; pixels that count.
        classes: ``"all"``; ``"foreground"`` drops the background's term and keeps log K, as the paper is written (a
            tile that is certainly background then has entropy 0); ``"foreground_renormalised"`` is the entropy
            among the K - 1 foreground classes, over log(K - 1).
        background_index: Which class is the background; needed for both kinds of foreground.

    Returns:
        float32 [B] in [0, 1], NaN where a tile has no valid pixel or a logit is not a number.

    Raises:
        ValueError: shapes that do not fit, or a foreground without a background to leave out.
    """
    return tile_statistics(logits_BKHW, valid_BHW, classes=classes, background_index=background_index).entropy


def tile_statistics(
    logits_BKHW: torch.Tensor,
    valid_BHW: torch.Tensor,
    *,
    classes: EntropyClasses = "all",
    background_index: int | None = None,
) -> TileStatistics:
    """Entropy as `pixel_entropy`, mean confidence (largest probability) and predicted class shares, in one pass.

    Goes through the classes one by one, so that beside the logits only maps of [B, H, W] are held.
    """
    if logits_BKHW.ndim != 4 or valid_BHW.shape != logits_BKHW.shape[:1] + logits_BKHW.shape[2:]:
        raise ValueError(
            f"expected logits [B, K, H, W] and valid [B, H, W], got {list(logits_BKHW.shape)} and "
            f"{list(valid_BHW.shape)}; entropy is taken at the network's output size"
        )
    check_entropy_classes(classes, logits_BKHW.shape[1], background_index)
    # on a CPU tile by tile: a tile's maps stay in its cache, and a channels_last tile is made contiguous there
    step = 1 if logits_BKHW.device.type == "cpu" else max(1, len(logits_BKHW))
    pieces = [
        _piece_statistics(tiles_BKHW.contiguous(), pixels_BHW, classes, background_index)
        for tiles_BKHW, pixels_BHW in zip(logits_BKHW.split(step), valid_BHW.split(step), strict=True)
    ]
    return TileStatistics(*(torch.cat(values) for values in zip(*pieces, strict=True)))


def _piece_statistics(
    logits_BKHW: torch.Tensor, valid_BHW: torch.Tensor, classes: str, background_index: int | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The fields of `TileStatistics`."""
    entropy_BHW, confidence_BHW, highest_BHW = _pixel_statistics(logits_BKHW, classes, background_index)
    pixels_B = valid_BHW.sum(dim=(1, 2)).float()

    def mean(values_BHW: torch.Tensor) -> torch.Tensor:
        return (values_BHW.masked_fill_(~valid_BHW, 0).sum(dim=(1, 2)) / pixels_B).clamp_(0, 1)

    shares_BK = _votes(logits_BKHW, highest_BHW, valid_BHW) / pixels_B[:, None]
    return mean(entropy_BHW), mean(confidence_BHW), shares_BK, pixels_B / (valid_BHW.shape[1] * valid_BHW.shape[2])


def check_entropy_classes(classes: str, num_classes: int, background_index: int | None) -> None:
    """Refuse a choice of classes that this label space cannot answer.

    Raises:
        ValueError: an unknown choice, no background to leave out, or a single foreground class to renormalise.
    """
    if classes not in get_args(EntropyClasses):
        raise ValueError(f"entropy classes: expected one of {list(get_args(EntropyClasses))}, got {classes!r}")
    if classes == "all":
        return
    if background_index is None:
        raise ValueError(
            f"entropy classes: {classes!r} needs a background class to leave out and the dataset names none; "
            "give 'background' in the dataset card or use classes 'all'"
        )
    if not 0 <= background_index < num_classes:
        raise ValueError(f"background_index: expected a class in 0..{num_classes - 1}, got {background_index}")
    if classes == "foreground_renormalised" and num_classes < 3:
        raise ValueError(
            "entropy classes: 'foreground_renormalised' needs two foreground classes, since the entropy of one is "
            "always 0; use 'foreground' or 'all'"
        )


def _pixel_statistics(
    logits_BKHW: torch.Tensor, classes: str, background_index: int | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Entropy in [0, 1], confidence and largest logit of each pixel, all [B, H, W].

    With d_k = z_k - max z and, over some classes, S = sum exp d_k and T = sum d_k exp d_k, the entropy of their
    softmax is log S - T / S. Over all classes, the confidence is 1 / S.
    """
    num_classes = logits_BKHW.shape[1]
    highest_BHW = _maximum(logits_BKHW, range(num_classes))
    if classes == "all":
        sum_BHW, weighted_BHW = _exponential_sums(logits_BKHW, highest_BHW, range(num_classes))
        confidence_BHW = sum_BHW.reciprocal()
        entropy_BHW = sum_BHW.log_().sub_(weighted_BHW.mul_(confidence_BHW))
        return entropy_BHW.div_(math.log(num_classes)), confidence_BHW, highest_BHW

    assert background_index is not None
    foreground = [k for k in range(num_classes) if k != background_index]
    background_BHW = _exponential(logits_BKHW[:, background_index], highest_BHW)
    if classes == "foreground":
        sum_BHW, weighted_BHW = _exponential_sums(logits_BKHW, highest_BHW, foreground)
        total_BHW = sum_BHW + background_BHW
        entropy_BHW = (sum_BHW * total_BHW.log()).sub_(weighted_BHW).div_(total_BHW)
        return entropy_BHW.div_(math.log(num_classes)), total_BHW.reciprocal_(), highest_BHW

    # from its own maximum: the background may lie so far above that every foreground exponential is 0
    highest_foreground_BHW = _maximum(logits_BKHW, foreground)
    sum_BHW, weighted_BHW = _exponential_sums(logits_BKHW, highest_foreground_BHW, foreground)
    entropy_BHW = sum_BHW.log().sub_(weighted_BHW.div_(sum_BHW)).div_(math.log(num_classes - 1))
    total_BHW = sum_BHW.mul_(_exponential(highest_foreground_BHW, highest_BHW)).add_(background_BHW)
    return entropy_BHW, total_BHW.reciprocal_(), highest_BHW


def _maximum(logits_BKHW: torch.Tensor, classes: Sequence[int]) -> torch.Tensor:
    highest_BHW = logits_BKHW[:, classes[0]]
    for k in classes[1:]:
        highest_BHW = torch.maximum(highest_BHW, logits_BKHW[:, k])
    return highest_BHW


def _exponential(logits_BHW: torch.Tensor, highest_BHW: torch.Tensor) -> torch.Tensor:
    return (logits_BHW.float() - highest_BHW).clamp_(min=_LOWEST_LOGIT).exp_()


def _exponential_sums(
    logits_BKHW: torch.Tensor, highest_BHW: torch.Tensor, classes: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Over `classes`: sum of exp d_k and of d_k exp d_k, with d_k the distance from `highest_BHW`."""
    sum_BHW = torch.zeros_like(highest_BHW, dtype=torch.float32)
    weighted_BHW = torch.zeros_like(sum_BHW)
    for k in classes:
        difference_BHW = (logits_BKHW[:, k].float() - highest_BHW).clamp_(min=_LOWEST_LOGIT)
        exponential_BHW = difference_BHW.exp()
        sum_BHW += exponential_BHW
        weighted_BHW.addcmul_(exponential_BHW, difference_BHW)
    return sum_BHW, weighted_BHW


def _votes(logits_BKHW: torch.Tensor, highest_BHW: torch.Tensor, valid_BHW: torch.Tensor) -> torch.Tensor:
    """Valid pixels per predicted class, int64 [B, K]; of classes with equal logits the first has the vote."""
    undecided_BHW = valid_BHW.clone()
    counts = []
    for k in range(logits_BKHW.shape[1]):
        predicted_BHW = (logits_BKHW[:, k] == highest_BHW).logical_and_(undecided_BHW)
        undecided_BHW ^= predicted_BHW
        counts.append(predicted_BHW.sum(dim=(1, 2)))
    return torch.stack(counts, dim=1)
