"""The loss on labelled pixels, by name."""

from __future__ import annotations

from torch import Tensor

from s5.losses.cross_entropy import cross_entropy
from s5.losses.dice import dice_loss
from s5.losses.ohem import OhemConfig, hard_pixels
from s5.losses.pooling import Pool, alone

LABELED_LOSSES = ("ce", "ohem", "ce_dice")


def labeled_loss(
    logits_BKHW: Tensor,
    target_BHW: Tensor,
    *,
    name: str = "ce",
    ohem: OhemConfig | None = None,
    ignore_index: int = 255,
    class_weights: Tensor | None = None,
    pool: Pool = alone,
) -> Tensor:
    """The loss called `name`, in float32; zero, with a zero gradient, where every pixel is ignored.

    Args:
        logits_BKHW: floating point of any precision.
        target_BHW: class indices 0..K-1 or `ignore_index`, any integer type.
        name: ``"ce"``, the mean cross entropy; ``"ohem"``, that of the hard pixels alone (`hard_pixels`);
            ``"ce_dice"``, cross entropy and soft Dice added up.
        ohem: what is hard; None for the defaults.
        ignore_index: value of the pixels that do not count.
        class_weights: float [K] of the cross entropy, or None for equal weights. Dice weighs classes alike by itself.
        pool: sums over the processes that share the batch. What is hard is decided in each process.

    Raises:
        ValueError: there is no loss of this name.
    """
    if name not in LABELED_LOSSES:
        raise ValueError(f"labeled_loss: expected one of {LABELED_LOSSES}, got {name!r}")
    if name == "ohem":
        kept_BHW = hard_pixels(logits_BKHW, target_BHW, ohem or OhemConfig(), ignore_index=ignore_index)
        target_BHW = target_BHW.masked_fill(~kept_BHW, ignore_index)
    loss = cross_entropy(logits_BKHW, target_BHW, ignore_index=ignore_index, class_weights=class_weights, pool=pool)
    if name == "ce_dice":
        loss = loss + dice_loss(logits_BKHW, target_BHW, ignore_index=ignore_index, pool=pool)
    return loss
