from __future__ import annotations

import numpy as np
import torch

from s5.report import GalleryRow, gallery_rows, plot_gallery
from s5.report.canvas import encode
from s5.report.gallery import choose_tiles
from s5.types import BandStatistics, LabelSpace

LABELS = LabelSpace(("field", "water", "road"))
STATISTICS = BandStatistics(("red", "green", "blue"), (0.0,) * 3, (255.0,) * 3, (0.5,) * 3, (0.25,) * 3)


class _Tiles:
    """Ten tiles of class 0; only tile 6 holds class 2, tile 3 a little of class 1 and tile 8 a lot of it."""

    def __init__(self) -> None:
        self.tile_ids = [f"t{i}" for i in range(10)]

    def __len__(self) -> int:
        return 10

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        mask = np.zeros((8, 8), np.uint8)
        mask[:1] = 1 if index == 3 else 0
        mask[:4] = 1 if index == 8 else mask[:4]
        mask[5] = 2 if index == 6 else mask[5]
        mask[7] = 255 if index == 9 else mask[7]
        return np.full((3, 8, 8), 20 * index, np.uint8), mask, np.ones((8, 8), bool)


class _Constant(torch.nn.Module):
    """Always says class 1."""

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(x_BCHW.shape[0], 3, *x_BCHW.shape[2:])
        logits[:, 1] = 1
        return logits


def test_tiles_show_all_classes() -> None:
    assert choose_tiles(_Tiles(), LABELS, 2) == [6, 8]
    assert choose_tiles(_Tiles(), LABELS, 0) == []
    assert len(choose_tiles(_Tiles(), LABELS, 50)) == 10


def test_rows_hold_what_models_say() -> None:
    rows = gallery_rows(_Tiles(), {"s4p": _Constant()}, STATISTICS, LABELS, num_tiles=3)
    assert [row.tile_id for row in rows] == ["t3", "t6", "t8"]
    assert all((row.predictions["s4p"] == 1).all() for row in rows)
    shown = {row.tile_id: row for row in rows}
    np.testing.assert_array_equal(shown["t8"].truth, _Tiles().read(8)[1])


def test_accuracy_counts_known_and_valid_pixels_alone() -> None:
    truth = np.array([[1, 1, 0, 255]], np.uint8)
    valid = np.array([[True, False, True, True]])
    row = GalleryRow("t", np.zeros((3, 1, 4), np.uint8), truth, {"s4p": np.ones((1, 4), np.uint8)}, valid)
    figure = plot_gallery([row], LABELS, ["s4p", "absent"])
    assert figure.axes[2].get_xlabel() == "50% of pixels right"
    assert not figure.axes[3].get_visible()
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["field", "water", "road", "ignored / no data"]


def test_any_image_can_be_shown() -> None:
    truth = np.zeros((9, 9), np.uint8)
    rows = [
        GalleryRow("many bands", np.random.default_rng(0).random((6, 9, 9)).astype(np.float32), truth),
        GalleryRow("ready", np.zeros((9, 9, 3), np.uint8), truth),
    ]
    assert encode(plot_gallery(rows, LABELS, ["s4p"]))[1]
    assert encode(plot_gallery([], LABELS, ["s4p"]))[1]
