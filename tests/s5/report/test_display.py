from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s5.report.display import color_mask, display_rgb
from s5.report.palette import IGNORED, to_rgb
from s5.types import BandStatistics


def _statistics(bands: tuple[str, ...], high: float = 1.0, mean: float = 0.5, std: float = 0.2) -> BandStatistics:
    count = len(bands)
    return BandStatistics(bands, (0.0,) * count, (high,) * count, (mean,) * count, (std,) * count)


def test_8_bit_images_are_shown_as_they_are() -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, 5, 7), dtype=np.uint8)
    np.testing.assert_array_equal(display_rgb(image), image.transpose(1, 2, 0))


def test_bands_are_found_by_name() -> None:
    image = np.stack([np.full((2, 2), v, dtype=np.uint8) for v in (10, 20, 30, 40)])
    shown = display_rgb(image, _statistics(("nir", "Blue", "green", "RED"), high=255))
    assert shown[0, 0].tolist() == [40, 30, 20]


@pytest.mark.parametrize(("bands", "expected"), [(1, [9, 9, 9]), (2, [9, 8, 8]), (5, [9, 8, 7])])
def test_any_number_of_bands(bands: int, expected: list[int]) -> None:
    image = np.stack([np.full((2, 2), 9 - i, dtype=np.uint8) for i in range(bands)])
    assert display_rgb(image)[0, 0].tolist() == expected


def test_wide_types_use_the_statistics_so_that_tiles_compare() -> None:
    statistics = _statistics(("a", "b", "c"), high=10000.0, mean=0.2, std=0.04)
    dark, bright = np.full((3, 2, 2), 1000, np.uint16), np.full((3, 2, 2), 3000, np.uint16)
    assert (display_rgb(dark, statistics) == 0).all()  # 0.2 - 2.5 * 0.04 = 0.1
    assert (display_rgb(bright, statistics) == 255).all()
    middle = np.full((3, 2, 2), 2000, np.uint16)
    assert abs(int(display_rgb(middle, statistics)[0, 0, 0]) - 128) <= 1


def test_without_statistics_the_percentiles_of_the_valid_pixels_count() -> None:
    image = np.tile(np.linspace(0, 1, 101, dtype=np.float32), (3, 2, 1))
    image[:, 0, :50] = np.nan
    valid = np.isfinite(image[0])
    shown = display_rgb(image, valid=valid)
    assert shown[1, 0].tolist() == [0, 0, 0]
    assert shown[1, 100].tolist() == [255, 255, 255]
    assert shown[0, 10].tolist() == list(to_rgb(IGNORED))


def test_given_limits_win() -> None:
    image = np.full((3, 1, 1), 60, np.uint8)
    assert display_rgb(image, low=[60, 0, 50], high=[100, 60, 70])[0, 0].tolist() == [0, 255, 128]


@given(
    st.sampled_from([np.uint8, np.uint16, np.int16, np.float32]),
    st.integers(1, 6),
    st.booleans(),
    st.floats(-1e4, 1e4),
)
def test_any_image_gives_a_picture(dtype: type, bands: int, named: bool, value: float) -> None:
    image = np.full((bands, 4, 3), np.clip(value, 0, 200)).astype(dtype)
    statistics = _statistics(tuple(f"b{i}" for i in range(bands)), high=255) if named else None
    shown = display_rgb(image, statistics)
    assert shown.shape == (4, 3, 3)
    assert shown.dtype == np.uint8


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[C, H, W\]"):
        display_rgb(np.zeros((4, 4), np.uint8))
    with pytest.raises(ValueError, match="both low and high"):
        display_rgb(np.zeros((3, 4, 4), np.uint8), low=[0, 0, 0])


def test_values_that_are_no_class_are_grey() -> None:
    mask = np.array([[0, 1, 2, 200, 255]], dtype=np.uint8)
    colors = ["#FF0000", "#00FF00"]
    grey = list(to_rgb(IGNORED))
    assert color_mask(mask, colors)[0].tolist() == [[255, 0, 0], [0, 255, 0], grey, grey, grey]
