"""Online hard example mining: only the pixels that the network gets wrong or is unsure of teach it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class OhemConfig:
    """Which labelled pixels are hard.

    Args:
        threshold: A pixel is hard where the probability of its true class is under this, in (0, 1].
        min_kept: Share of the labelled pixels of a batch that count at least, the hardest ones; in (0, 1]. A share, not
            a number as elsewhere, so that it means the same for any crop. (BiSeNet: a sixteenth, threshold 0.7.)
    """

    threshold: float = 0.7
    min_kept: float = 0.0625

    def __post_init__(self) -> None:
        for name in ("threshold", "min_kept"):
            value = getattr(self, name)
            if not 0 < value <= 1:
                raise ValueError(f"ohem.{name}: expected a value in (0, 1], got {value!r}")


@torch.no_grad()
def hard_pixels(logits_BKHW: Tensor, target_BHW: Tensor, config: OhemConfig, *, ignore_index: int = 255) -> Tensor:
    """The pixels that count, bool [B, H, W]: p(truth) < threshold, and at least the `min_kept` hardest of the batch.

    OHEM (Shrivastava et al., CVPR 2016) as semantic segmentation uses it. Pixels as hard as the last one kept count
    too. No pixel counts where all are ignored. No device sync.

    Args:
        logits_BKHW: floating point of any precision.
        target_BHW: class indices 0..K-1 or `ignore_index`, any integer type.
        config: what is hard.
        ignore_index: value of the pixels that never count.
    """
    valid_BHW = target_BHW != ignore_index
    with torch.autocast(device_type=logits_BKHW.device.type, enabled=False):
        loss_BHW = F.cross_entropy(logits_BKHW.float(), target_BHW.long(), ignore_index=ignore_index, reduction="none")
    truth_BHW = torch.exp(-loss_BHW).masked_fill(~valid_BHW, torch.inf)
    num_kept = (valid_BHW.sum() * config.min_kept).ceil().long().clamp(1, truth_BHW.numel())
    # gather, since an index of no dimension would be read by the host
    last_kept = truth_BHW.flatten().sort().values.gather(0, num_kept[None] - 1)
    return valid_BHW & ((truth_BHW < config.threshold) | (truth_BHW <= last_kept))
