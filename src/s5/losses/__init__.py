"""Losses: every one takes an `ignore_index` and is zero, never NaN, on a batch without a valid pixel."""

from s5.losses.balance import balanced_weights
from s5.losses.consistency import confident_pixels, consistency_loss
from s5.losses.cross_entropy import cross_entropy
from s5.losses.dice import dice_loss

__all__ = ["balanced_weights", "confident_pixels", "consistency_loss", "cross_entropy", "dice_loss"]
