"""A trained network of this project as a grounder: what it learnt elsewhere is evidence here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from s5.data.transforms import Normalizer
from s5.engine import Compute
from s5.files import sha256_of
from s5.models import load_model
from s5.types import BandStatistics


class NetworkGrounder:
    """Evidence from a segmentation network that was trained on other tiles; its labels stand behind the evidence.

    Classes go by name. What the network says of a class that is not asked for is unknown.

    Args:
        weights: A file that this project's training wrote, of a network for red, green and blue.
        classes: That are asked for.
        compute: Where it runs.
        names: Class asked for -> the network's class, where they differ.

    Raises:
        ValueError: the network is not of three bands, or knows none of the classes.
    """

    def __init__(
        self, weights: Path, classes: Sequence[str], compute: Compute, names: Mapping[str, str] | None = None
    ) -> None:
        model, metadata = load_model(weights)
        known = list(metadata["classes"])
        statistics = BandStatistics.from_dict(metadata["statistics"])
        if len(statistics.bands) != 3:
            raise ValueError(f"{weights}: grounders see red, green and blue; this network is of {statistics.bands}")
        wanted = [(names or {}).get(name, name) for name in classes]
        self._places = [known.index(name) if name in known else None for name in wanted]
        if not any(place is not None for place in self._places):
            raise ValueError(f"{weights}: this network knows {known}, none of {wanted}")
        self._model = model.to(compute.device).eval()
        self._normalizer, self._compute = Normalizer(statistics, compute.device), compute
        self.key = {"grounder": "network", "weights": sha256_of(weights), "asked": ",".join(wanted)}

    @torch.inference_mode()
    def ground(self, images_BCHW: Tensor) -> Tensor:
        with self._compute.autocast():
            logits: Tensor = self._model(self._normalizer(self._compute.to_device(images_BCHW)))
        shares = logits.float().softmax(1)
        none = torch.zeros_like(shares[:, 0])
        found = torch.stack([none if place is None else shares[:, place] for place in self._places], 1)
        return torch.cat([found, (1 - found.sum(1, keepdim=True)).clamp(min=0)], 1)
