"""Blending against a loop over pixels, closed forms and a single pass."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from s5.inference import BlendGrid, SceneConfig, blend
from s5.inference.strips import encode

CPU = torch.device("cpu")
few = settings(max_examples=25)


@st.composite
def grids(draw: st.DrawFn) -> BlendGrid:
    size = draw(st.integers(1, 24))
    overlap = draw(st.integers(0, size // 2))
    margin = draw(st.integers(0, overlap // 2))
    return BlendGrid(draw(st.integers(1, 70)), draw(st.integers(1, 70)), size, overlap, margin)


def gathered(grid: BlendGrid, scene: Tensor, valid: Tensor, *, first: int = 0) -> tuple[Tensor, Tensor]:
    """The scene cut into its windows and blended again."""
    numbers = range(grid.first_row_for(first) * len(grid.cols), len(grid.windows))
    outputs = []
    for number in numbers:
        w = grid.windows[number]
        cut = (..., slice(w.row, w.row + w.height), slice(w.col, w.col + w.width))
        outputs.append((number, scene[cut], valid[cut]) if valid[cut].any() else (number, None, None))
    strips = [
        (strip.scores.clone(), strip.valid.clone())
        for strip in blend(grid, outputs, channels=len(scene), first=first, device=CPU)
    ]
    return torch.cat([s for s, _ in strips], 1), torch.cat([v for _, v in strips])


@few
@given(grids(), st.randoms(use_true_random=False))
def test_what_was_cut_comes_back(grid: BlendGrid, random: object) -> None:
    scene = torch.rand(2, grid.height, grid.width)
    valid = torch.rand(grid.height, grid.width) > 0.3
    scores, found = gathered(grid, scene, valid)
    assert torch.equal(found, valid)
    torch.testing.assert_close(scores[:, valid], scene[:, valid])


@few
@given(grids())
def test_windows_cover_the_scene_and_overlap_enough(grid: BlendGrid) -> None:
    covered = np.zeros((grid.height, grid.width))
    for w in grid.windows:
        assert (w.height, w.width) == (min(grid.size, grid.height), min(grid.size, grid.width))
        covered[w.row : w.row + w.height, w.col : w.col + w.width] += 1
    assert covered.min() >= 1
    for starts, extent in ((grid.rows, grid.height), (grid.cols, grid.width)):
        assert starts[-1] + min(grid.size, extent) == extent
        assert all(b - a <= grid.size - grid.overlap for a, b in pairwise(starts))
    assert sum(height for _, height in grid.strips) == grid.height


@few
@given(grids())
def test_pixels_at_inner_sides_do_not_count(grid: BlendGrid) -> None:
    """A window whose `margin` outermost inner pixels are spoilt gives the same as one where they are right."""
    scene = torch.rand(1, grid.height, grid.width)
    m, outputs = grid.margin, []
    for number, w in enumerate(grid.windows):
        cut = scene[:, w.row : w.row + w.height, w.col : w.col + w.width].clone()
        top, left = m * (w.row > 0), m * (w.col > 0)
        bottom, right = m * (w.row + w.height < grid.height), m * (w.col + w.width < grid.width)
        inner = torch.zeros_like(cut, dtype=torch.bool)
        inner[:, top : w.height - bottom, left : w.width - right] = True
        outputs.append((number, torch.where(inner, cut, 99.0), torch.ones(cut.shape[1:], dtype=torch.bool)))
    found = [s.scores.clone() for s in blend(grid, outputs, channels=1, first=0, device=CPU)]
    torch.testing.assert_close(torch.cat(found, 1), scene)


@few
@given(grids(), st.data())
def test_a_resumed_part_is_the_same_bit_for_bit(grid: BlendGrid, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(grid.rows) - 1))
    scene, valid = torch.rand(2, grid.height, grid.width), torch.ones(grid.height, grid.width, dtype=torch.bool)
    whole, _ = gathered(grid, scene, valid)
    part, _ = gathered(grid, scene, valid, first=first)
    assert torch.equal(part, whole[:, grid.rows[first] :])


def test_weights_grow_over_the_overlap() -> None:
    grid = BlendGrid(16, 8, size=8, overlap=4, margin=1)
    # three windows at rows 0, 4, 8: outer sides count fully, inner ones 0, 1/4, 3/4 and 1 from the side on
    ramp = [0.0, 0.25, 0.75, 1.0]
    assert grid.row_weights.tolist() == [[1.0] * 4 + ramp[::-1], ramp + ramp[::-1], ramp + [1.0] * 4]
    assert grid.col_weights.tolist() == [[1.0] * 8]


def test_encoding() -> None:
    from s5.inference.blending import BlendedStrip

    scores = torch.tensor([[0.5, 1.0, 0.9], [0.5, 0.0, 0.1]])[:, None]
    strip = BlendedStrip(0, 0, scores, torch.tensor([[True, True, False]]))
    pixels = encode(strip, entropy=True, probabilities=True)
    expected = [[0, 0, 255], [125, 250, 255], [250, 0, 255], [125, 250, 255], [125, 0, 255]]
    assert pixels[:, 0].tolist() == expected
    strip.scores[0, 0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="not finite"):
        encode(strip)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"overlap": 300}, "overlap: expected at most half of the window of 512"),
        ({"margin": 65}, "margin: expected 0 to half of the overlap of 128"),
        ({"window": 0}, "window: expected a whole number of at least 1"),
        ({"tta": "all"}, "tta: expected none, flips or dihedral"),
        ({"gsd": 0.0}, "gsd: expected a positive number"),
        ({"min_area": -1.0}, "min_area: expected a number of at least 0"),
    ],
)
def test_settings_out_of_range(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SceneConfig(**values)  # type: ignore[arg-type]
