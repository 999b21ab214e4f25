"""Labelled pixels that trust is estimated on: which are drawn, and what is said there."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from s5.data.transforms import Normalizer
from s5.engine import ComputeConfig, resolve_compute
from s5.purification.calibration import Samples, sample_pixels
from s5.purification.config import FitConfig
from s5.types import BandStatistics, LabelSpace

LABELS = LabelSpace(("a", "b", "c"), ignore_index=9)
STATISTICS = BandStatistics(("r", "g", "b"), (0,) * 3, (1,) * 3, (0.0,) * 3, (1.0,) * 3)
CPU = resolve_compute(ComputeConfig(device="cpu", precision="fp32", threads=1))
COUNTS = (40, 10, 0)  # labelled pixels of each tile


class Tiles:
    """The image holds the number of the pixel, so that a sample says where it was drawn; so does the evidence."""

    tile_ids = ("x", "y", "z")

    def __init__(self, counts: tuple[int, ...] = COUNTS) -> None:
        self._counts = counts

    def __len__(self) -> int:
        return len(self._counts)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        place = np.arange(64, dtype=np.float32).reshape(8, 8)
        mask = np.full(64, LABELS.ignore_index, np.uint8)
        chosen = np.random.default_rng(index).permutation(64)[: self._counts[index]]
        mask[chosen] = chosen % 3
        return np.stack([place, -place, place + 100 * index]), mask.reshape(8, 8), np.ones((8, 8), bool)

    def read_maps(self, index: int) -> np.ndarray:
        return np.stack([np.arange(64, dtype=np.uint8).reshape(8, 8) + channel for channel in range(4)])


def sampled(tiles: Tiles, pixels: int, seed: int = 0, batch_size: int = 2) -> Samples:
    config = FitConfig(pixels_per_tile=pixels)
    return sample_pixels(
        lambda images: images, tiles, tiles, LABELS, Normalizer(STATISTICS), config,  # type: ignore[arg-type]
        seed=seed, compute=CPU, batch_size=batch_size,
    )  # fmt: skip


def test_logits_evidence_and_truth_are_of_one_pixel_and_none_is_drawn_twice() -> None:
    found = sampled(Tiles(), 20)
    assert found.logits.dtype == found.evidence.dtype == torch.float64
    assert torch.bincount(found.tile).tolist() == [20, 10]  # as many as there are, and none of the third
    place = found.logits[:, 0].long()
    assert torch.equal(found.logits[:, 2], (place + 100 * found.tile).double())
    torch.testing.assert_close(found.evidence, (place[:, None] + torch.arange(4)).double() / 255, atol=1e-6, rtol=0)
    assert torch.equal(found.truth, place % 3)
    assert len({(int(t), int(p)) for t, p in zip(found.tile, place, strict=True)}) == 30
    for index in range(2):
        labelled = (Tiles().read(index)[1] != LABELS.ignore_index).ravel()
        assert labelled[place[found.tile == index].numpy()].all()


def test_the_draw_is_of_the_seed_and_the_tile_alone() -> None:
    first = sampled(Tiles(), 8)
    assert torch.equal(first.logits, sampled(Tiles(), 8, batch_size=3).logits)
    assert torch.equal(first.logits[8:], sampled(Tiles((10, 10, 0)), 8).logits[8:])
    assert not torch.equal(first.logits, sampled(Tiles(), 8, seed=1).logits)


def test_tiles_without_a_labelled_pixel_are_named_by_their_split() -> None:
    with pytest.raises(ValueError, match=r"fit\.split: 'val' has no labelled pixel"):
        sampled(Tiles((0, 0, 0)), 8)
