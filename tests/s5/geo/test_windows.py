import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s5.geo.windows import partition_windows, tile_windows
from s5.types import Window

sides = st.integers(1, 90)


def times_covered(height, width, windows):
    counts = np.zeros((height, width), dtype=int)
    for w in windows:
        assert w.row + w.height <= height
        assert w.col + w.width <= width
        counts[w.row : w.row + w.height, w.col : w.col + w.width] += 1
    return counts


@given(height=sides, width=sides, size=st.integers(1, 40), data=st.data())
def test_tiles_cover_every_pixel_and_are_all_of_one_size(height, width, size, data):
    stride = data.draw(st.integers(1, size))
    windows = tile_windows(height, width, size=size, stride=stride)
    assert times_covered(height, width, windows).min() >= 1
    assert {(w.height, w.width) for w in windows} == {(min(size, height), min(size, width))}
    assert len(set(windows)) == len(windows)


@given(height=sides, width=sides, size=st.integers(1, 40))
def test_a_partition_holds_every_pixel_once_in_tiles_that_differ_by_a_pixel(height, width, size):
    windows = partition_windows(height, width, size=size)
    assert (times_covered(height, width, windows) == 1).all()
    for side in ("height", "width"):
        lengths = [getattr(w, side) for w in windows]
        assert max(lengths) <= size
        assert max(lengths) - min(lengths) <= 1


def test_the_last_tile_is_shifted_inward():
    assert tile_windows(4, 10, size=4) == [Window(0, 0, 4, 4), Window(0, 4, 4, 4), Window(0, 6, 4, 4)]
    assert tile_windows(8, 4, size=4) == [Window(0, 0, 4, 4), Window(4, 0, 4, 4)]


@pytest.mark.parametrize(("size", "stride"), [(0, None), (-1, None), (8, 0), (8, 9)])
def test_gaps_and_empty_tiles_are_refused(size, stride):
    with pytest.raises(ValueError, match="tiling: expected size"):
        tile_windows(10, 10, size=size, stride=stride)


def test_an_empty_partition_is_refused():
    with pytest.raises(ValueError, match="size >= 1"):
        partition_windows(10, 10, size=0)
