"""What purification does to pseudo-labels, where the truth is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from s5.data.loader import TilesWithMaps
from s5.data.transforms import Normalizer
from s5.engine import Compute, map_tiles
from s5.purification.calibration import whole_maps
from s5.purification.priors import NamedTiles, PriorReader
from s5.types import LabelSpace, Purified, Purify

BOUNDARY = 3  # pixels


def assess(
    teacher: Callable[[Tensor], Tensor],
    tiles: NamedTiles,
    priors: PriorReader,
    purify: Purify,
    labels: LabelSpace,
    normalizer: Normalizer,
    *,
    tau: float,
    compute: Compute,
    batch_size: int = 8,
) -> dict[str, Any]:
    """Pseudo-labels of whole tiles before and after purification.

    Args:
        teacher: A network in eval mode, from normalised images to logits.
        tiles: Their masks are the truth; what they do not know is not judged.
        priors: Evidence of the same tiles.
        purify: The rule.
        tau: Confidence from which a pixel counts.

    Returns:
        JSON: `before` and `after` with `accuracy`, `macc`, `per_class`, `boundary_accuracy` (within 3 pixels of another
        class) over all known pixels, and `confident_share` and `confident_accuracy` of those over tau, all in percent;
        `shares` of the valid pixels that were relabelled, whose confidence rose or fell, and that came over tau or
        fell under it.
    """
    counts = _Counts(labels)

    def look(batch: Any) -> tuple[Purified, Purified]:
        logits = teacher(normalizer(compute.to_device(batch.images))).float()
        evidence = whole_maps(batch.maps, (logits.shape[2], logits.shape[3])).to(logits.device)
        probabilities = logits.softmax(1)
        return Purified(probabilities, *probabilities.max(1)), purify(logits, evidence)

    source = TilesWithMaps(tiles, priors)
    for batch, (before, after) in map_tiles(look, source, batch_size=batch_size, compute=compute):
        counts.add(batch.masks, batch.valid, before, after, tau)
    return counts.scores()


def near_boundary(masks: Tensor, num_classes: int, reach: int = BOUNDARY) -> Tensor:
    """bool [B, H, W]: another class stands within `reach` pixels (rows and columns); ignored pixels are no class."""
    known = masks < num_classes
    high = torch.where(known, masks.float(), -1.0)
    low = torch.where(known, -masks.float(), -float(num_classes))
    highest, lowest = (F.max_pool2d(one, 2 * reach + 1, stride=1, padding=reach) for one in (high, low))
    return known & (highest != -lowest)


class _Counts:
    """Confusion matrices of what is said before and after, and shares of pixels."""

    def __init__(self, labels: LabelSpace) -> None:
        self._labels = labels
        k = labels.num_classes
        self._matrices = {
            (when, where): torch.zeros(k, k, dtype=torch.int64)
            for when in ("before", "after")
            for where in ("all", "confident", "boundary")
        }
        self._confident = {"before": 0, "after": 0}
        self._shares = dict.fromkeys(("relabelled", "raised", "lowered", "over_tau", "under_tau"), 0)
        self._valid = 0

    def add(self, masks: Tensor, valid: Tensor, before: Purified, after: Purified, tau: float) -> None:
        k = self._labels.num_classes
        truth = torch.where(masks == self._labels.ignore_index, 255, masks.long())
        boundary = near_boundary(truth, k)
        known = valid & (truth < k)
        for when, one in (("before", before), ("after", after)):
            classes, confident = one.classes.cpu(), (one.confidence >= tau).cpu()
            self._confident[when] += int((confident & valid).sum())
            for where, chosen in (("all", known), ("confident", known & confident), ("boundary", known & boundary)):
                pairs = truth[chosen] * k + classes[chosen]
                self._matrices[when, where] += torch.bincount(pairs, minlength=k * k).reshape(k, k)
        change = (after.confidence - before.confidence).cpu()
        over = [(one.confidence >= tau).cpu() for one in (before, after)]
        for name, found in (
            ("relabelled", (after.classes != before.classes).cpu()),
            ("raised", change > 0),
            ("lowered", change < 0),
            ("over_tau", over[1] & ~over[0]),
            ("under_tau", over[0] & ~over[1]),
        ):
            self._shares[name] += int((found & valid).sum())
        self._valid += int(valid.sum())

    def scores(self) -> dict[str, Any]:
        return {
            **{when: self._scores_of(when) for when in ("before", "after")},
            "shares": {name: _percent(count, self._valid) for name, count in self._shares.items()},
            "num_pixels": int(self._matrices["before", "all"].sum()),
        }

    def _scores_of(self, when: str) -> dict[str, Any]:
        whole, confident, boundary = (self._matrices[when, where] for where in ("all", "confident", "boundary"))
        per_class = [_percent(int(whole[k, k]), int(whole[k].sum())) for k in range(len(whole))]
        seen = [value for value in per_class if value is not None]
        return {
            "accuracy": _accuracy(whole),
            "macc": sum(seen) / len(seen) if seen else None,
            "per_class": dict(zip(self._labels.classes, per_class, strict=True)),
            "boundary_accuracy": _accuracy(boundary),
            "confident_share": _percent(self._confident[when], self._valid),
            "confident_accuracy": _accuracy(confident),
        }


def _accuracy(matrix: Tensor) -> float | None:
    return _percent(int(matrix.diagonal().sum()), int(matrix.sum()))


def _percent(part: int, whole: int) -> float | None:
    return 100 * part / whole if whole else None


def answered_classes(maps: Tensor, size: tuple[int, int], ignore_index: int) -> Tensor:
    """What stored evidence says most, int64 [B, H, W], `ignore_index` where that is "unknown"."""
    evidence = whole_maps(maps, size)
    classes = evidence[:, :-1].argmax(1)
    return torch.where(evidence[:, -1] >= evidence[:, :-1].sum(1), ignore_index, classes)
