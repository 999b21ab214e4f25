"""Losses: every one takes an `ignore_index` or what is valid, and is zero, never NaN, where no pixel is valid."""

from s5.losses.balance import balanced_weights
from s5.losses.consistency import confident_pixels, consistency_loss
from s5.losses.cross_entropy import cross_entropy
from s5.losses.dice import dice_loss
from s5.losses.labeled import LABELED_LOSSES, labeled_loss
from s5.losses.ohem import OhemConfig, hard_pixels
from s5.losses.pooling import Pool, alone
from s5.losses.soft_targets import DISTANCES, soft_target_loss

__all__ = [
    "DISTANCES",
    "LABELED_LOSSES",
    "OhemConfig",
    "Pool",
    "alone",
    "balanced_weights",
    "confident_pixels",
    "consistency_loss",
    "cross_entropy",
    "dice_loss",
    "hard_pixels",
    "labeled_loss",
    "soft_target_loss",
]
