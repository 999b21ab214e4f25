"""A network as a function from raw windows to class probabilities."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s5.data.transforms import Normalizer
from s5.inference.config import TTA
from s5.types import BandStatistics

Predict = Callable[[Tensor], Tensor]
"""Raw windows [B, C, h, w] on the device to scores [B, K, h, w] float32."""


class Predictor:
    """A network with everything around it that inference needs.

    Args:
        model: Normalised images to logits; put into evaluation mode.
        statistics: How raw bands are normalised.
        device: Where the network runs; it is moved there.
        tta: Views that are averaged.
        zoom: Factor from the scene's pixels to the network's: 0.5 for a scene of half the ground sampling distance.
    """

    def __init__(
        self,
        model: nn.Module,
        statistics: BandStatistics,
        *,
        device: torch.device,
        tta: TTA = "none",
        zoom: float = 1.0,
    ) -> None:
        self.model = model.to(device=device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self.normalize = Normalizer(statistics, device)
        self.tta, self.zoom = tta, zoom

    def __call__(self, images: Tensor) -> Tensor:
        size = images.shape[-2:]
        inputs = self.normalize(images)
        if not math.isclose(self.zoom, 1.0, rel_tol=1e-3):
            smaller = (max(1, round(size[0] * self.zoom)), max(1, round(size[1] * self.zoom)))
            inputs = F.interpolate(inputs, smaller, mode="bilinear", antialias=True)
        probabilities = self._views(inputs)
        if probabilities.shape[-2:] != size:
            probabilities = F.interpolate(probabilities, size, mode="bilinear", antialias=True)
        return probabilities

    def _views(self, inputs: Tensor) -> Tensor:
        views = _VIEWS[self.tta]
        total = self._probabilities(inputs)
        for turns, mirrored in views[1:]:
            seen = inputs.flip(-1) if mirrored else inputs
            back = self._probabilities(seen.rot90(turns, (-2, -1))).rot90(-turns, (-2, -1))
            total = total + (back.flip(-1) if mirrored else back)
        return total / len(views) if len(views) > 1 else total

    def _probabilities(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(inputs.contiguous(memory_format=torch.channels_last))
        return logits.float().softmax(1)


# Quarter turns and whether mirrored first; the view as it is comes first.
_VIEWS: dict[TTA, list[tuple[int, bool]]] = {
    "none": [(0, False)],
    "flips": [(0, False), (0, True), (2, False), (2, True)],
    "dihedral": [(turns, mirrored) for mirrored in (False, True) for turns in range(4)],
}
