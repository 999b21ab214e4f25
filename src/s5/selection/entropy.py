"""How sure a network is of a tile: entropy, confidence and predicted class shares (S5, equation 1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch

EntropyClasses = Literal["all", "foreground", "foreground_renormalised"]

# exp(-80) is still a normal float32; what lies below adds nothing to a sum that is at least 1, and 0 * log 0 stays 0
_LOWEST_LOGIT = -80.0
_CACHED_PIXELS = 2**15


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


@torch.no_grad()
def tile_statistics(
    logits_BKHW: torch.Tensor,
    valid_BHW: torch.Tensor,
    *,
    classes: EntropyClasses = "all",
    background_index: int | None = None,
) -> TileStatistics:
    """Entropy as `pixel_entropy`, mean confidence (largest probability) and predicted class shares, in one pass."""
    if logits_BKHW.ndim != 4 or valid_BHW.shape != logits_BKHW.shape[:1] + logits_BKHW.shape[2:]:
        raise ValueError(
            f"expected logits [B, K, H, W] and valid [B, H, W], got {list(logits_BKHW.shape)} and "
            f"{list(valid_BHW.shape)}; entropy is taken at the network's output size"
        )
    check_entropy_classes(classes, logits_BKHW.shape[1], background_index)
    step = _tiles_at_once(logits_BKHW)
    pieces = [
        _piece_statistics(
            tiles_BKHW.to(torch.float32, memory_format=torch.contiguous_format, copy=True),
            pixels_BHW,
            classes,
            background_index,
        )
        for tiles_BKHW, pixels_BHW in zip(logits_BKHW.split(step), valid_BHW.split(step), strict=True)
    ]
    return TileStatistics(*(torch.cat(values) for values in zip(*pieces, strict=True)))


def _tiles_at_once(logits_BKHW: torch.Tensor) -> int:
    """All on a GPU; on a CPU so few that their maps stay in the cache, which is twice as fast."""
    if logits_BKHW.device.type != "cpu":
        return max(1, len(logits_BKHW))
    return max(1, _CACHED_PIXELS // (logits_BKHW.shape[2] * logits_BKHW.shape[3]))


def _piece_statistics(
    logits_BKHW: torch.Tensor, valid_BHW: torch.Tensor, classes: str, background_index: int | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The fields of `TileStatistics`; float32 logits, which are overwritten."""
    num_classes = largest = logits_BKHW.shape[1]
    if classes == "foreground_renormalised":
        largest -= 1
        foreground = [k for k in range(num_classes) if k != background_index]
        entropy_BHW, _, _ = _pixel_statistics(logits_BKHW[:, foreground])
        _, confidence_BHW, predicted_BHW = _pixel_statistics(logits_BKHW)
    else:
        left_out = background_index if classes == "foreground" else None
        entropy_BHW, confidence_BHW, predicted_BHW = _pixel_statistics(logits_BKHW, left_out)
    entropy_BHW /= math.log(largest)

    # votes by scatter_add_: argmax and bincount are far slower on a CPU, and bincount makes a GPU wait
    votes_BK = torch.zeros(len(valid_BHW), num_classes, dtype=torch.int64, device=valid_BHW.device)
    votes_BK.scatter_add_(1, predicted_BHW.flatten(1), valid_BHW.flatten(1).long())
    pixels_B = valid_BHW.sum(dim=(1, 2)).float()
    invalid_BHW = ~valid_BHW

    def mean(values_BHW: torch.Tensor) -> torch.Tensor:
        return (values_BHW.masked_fill_(invalid_BHW, 0).sum(dim=(1, 2)) / pixels_B).clamp_(0, 1)

    valid_share_B = pixels_B / (valid_BHW.shape[1] * valid_BHW.shape[2])
    return mean(entropy_BHW), mean(confidence_BHW), votes_BK / pixels_B[:, None], valid_share_B


def _pixel_statistics(
    logits_BKHW: torch.Tensor, left_out: int | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Entropy in nats, confidence and predicted class of each pixel, all [B, H, W]; the logits are overwritten.

    With d_k = z_k - max z, S = sum_k exp d_k over all classes, and S', T' = sum_k exp d_k, sum_k d_k exp d_k without
    the class left out, -sum_k p_k log p_k = (S' log S - T') / S; the confidence is 1 / S.
    """
    highest_BHW, predicted_BHW = logits_BKHW.max(dim=1, keepdim=True)
    difference_BKHW = logits_BKHW.sub_(highest_BHW).clamp_(min=_LOWEST_LOGIT)
    exponential_BKHW = difference_BKHW.exp()
    sum_BHW = total_BHW = exponential_BKHW.sum(dim=1)
    if left_out is not None:
        exponential_BKHW[:, left_out] = 0
        sum_BHW = exponential_BKHW.sum(dim=1)
    weighted_BHW = exponential_BKHW.mul_(difference_BKHW).sum(dim=1)
    confidence_BHW = total_BHW.reciprocal()
    entropy_BHW = total_BHW.log().mul_(sum_BHW).sub_(weighted_BHW).mul_(confidence_BHW)
    return entropy_BHW, confidence_BHW, predicted_BHW[:, 0]


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
