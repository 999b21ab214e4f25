"""Quality measures against closed forms, and copies against every pair."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from s5.selection import QualityConfig, SamplingConfig, measure_quality, quality_reasons, sample_diverse
from s5.selection.quality import copies
from s5.types import BandStatistics

STATISTICS = BandStatistics(("red", "green"), (0.0, 0.0), (200.0, 200.0), (0.5, 0.5), (0.2, 0.2))


class Tiles:
    def __init__(self, images, valid=None, sizes=None) -> None:
        self.images = np.asarray(images)
        number, _, height, width = self.images.shape
        self.valid = np.ones((number, height, width), bool) if valid is None else np.asarray(valid)
        self.sizes = np.array([[height, width]] * number) if sizes is None else np.asarray(sizes)
        self.tile_ids = [f"t{i}" for i in range(number)]

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index):
        return self.images[index], np.zeros(self.images.shape[2:], np.uint8), self.valid[index]


def test_sharpness_is_the_variance_of_the_laplacian():
    images = np.random.default_rng(0).integers(1, 199, (3, 2, 20, 30)).astype(np.uint8)
    images[1] = ndimage.gaussian_filter(images[1].astype(float), (0, 2, 2)).astype(np.uint8)
    images[2] = 77
    found = measure_quality(Tiles(images), STATISTICS)["sharpness"]
    for image, sharpness in zip(images, found, strict=True):
        laplacian = ndimage.laplace(image.mean(axis=0) / 200)[1:-1, 1:-1]
        assert sharpness == pytest.approx(laplacian.var(), rel=1e-4, abs=1e-9)
    assert found[0] > 50 * found[1]


def test_haze_is_the_mean_dark_channel_and_rises_with_haze():
    clear = np.random.default_rng(0).integers(1, 199, (2, 30, 45)).astype(float)
    hazy = 0.4 * clear + 0.6 * 180  # He et al.: J t + A (1 - t)
    found = measure_quality(Tiles(np.stack([clear, hazy]).astype(np.uint8)), STATISTICS)["haze"]
    dark = clear.min(axis=0).reshape(2, 15, 3, 15).min(axis=(1, 3)) / 200
    assert found[0] == pytest.approx(dark.mean(), abs=1e-6)
    assert found[1] == pytest.approx(0.4 * dark.mean() + 0.6 * 0.9, abs=0.005)


def test_saturated_and_nodata_are_shares_of_their_own_pixels():
    image = np.full((4, 2, 10, 10), 100, np.uint8)
    valid = np.ones((4, 10, 10), bool)
    image[0, 1, :2] = 200  # one band at its end: 20 % of the pixels
    image[1, :, :, :3] = 0  # all bands at the lower end: 30 %
    image[2, 0, :, :3] = 0  # one band alone may be dark
    valid[0, 5:] = False  # then 20 of 50 valid pixels
    valid[3] = False
    found = measure_quality(Tiles(image, valid), STATISTICS)
    assert found["saturated"].tolist()[:3] == pytest.approx([0.4, 0.3, 0.0])
    assert found["nodata"].tolist() == [0.5, 0.0, 0.0, 1.0]
    assert np.isnan(found.loc[3, ["saturated", "sharpness", "haze"]].astype(float)).all()


def test_padding_is_no_part_of_a_tile():
    rng = np.random.default_rng(1)
    small = rng.integers(1, 199, (1, 2, 12, 17)).astype(np.uint8)
    padded = np.zeros((1, 2, 24, 24), np.uint8)
    padded[:, :, :12, :17] = small
    valid = np.zeros((1, 24, 24), bool)
    valid[:, :12, :17] = True
    found = measure_quality(Tiles(padded, valid, [[12, 17]]), STATISTICS)
    pd.testing.assert_frame_equal(found, measure_quality(Tiles(small), STATISTICS))


def test_a_hash_stays_with_light_and_changes_with_the_picture():
    rng = np.random.default_rng(2)
    picture = ndimage.zoom(rng.integers(20, 120, (2, 8, 9)), (1, 8, 8), order=1)
    brighter, noisy = picture * 1.3 + 10, picture + rng.normal(0, 3, picture.shape)
    other = ndimage.zoom(rng.integers(20, 120, (2, 8, 9)), (1, 8, 8), order=1)
    images = np.stack([picture, brighter, noisy, other]).astype(np.uint8)
    first, *others = (int(v) for v in measure_quality(Tiles(images), STATISTICS)["hash"])
    distances = [(first ^ other).bit_count() for other in others]
    assert distances[0] <= 2
    assert distances[1] <= 4
    assert distances[2] > 15


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 2**64 - 1), max_size=12), st.integers(0, 2**31), st.integers(0, 9))
def test_copies_are_those_of_comparing_every_pair(values, seed, distance):
    rng = np.random.default_rng(seed)
    for value in values[:]:  # close ones too
        for _ in range(3):
            flipped = value
            for bit in rng.integers(0, 64, rng.integers(0, 12)):
                flipped ^= 1 << int(bit)
            values.append(flipped)
    rng.shuffle(values)
    table = pd.DataFrame(
        {"tile_id": [f"{i:02d}" for i in range(len(values))], "hash": pd.Series(values, dtype="uint64")}
    )
    kept, lost = [], set()
    for i, value in enumerate(values):
        if any((value ^ other).bit_count() <= distance for other in kept):
            lost.add(f"{i:02d}")
        else:
            kept.append(value)
    found = copies(table, distance)
    assert set(found) == lost
    place = dict(zip(table["tile_id"], values, strict=True))
    assert all((place[tile] ^ place[original]).bit_count() <= distance for tile, original in found.items())


def test_reasons_name_the_first_filter_that_a_tile_fails():
    quality = pd.DataFrame({
        "tile_id": list("fedcba"),
        "nodata": [0.6, 0.1, 0, 0, 0, 0],
        "saturated": [0.9, 0.9, 0.0, 0, 0, 0],
        "sharpness": [1, 1, 0.001, 1, 1, 1.0],
        "haze": [0, 0, 0, 0.8, 0, 0],
        "hash": pd.Series([1, 2, 3, 4, 7, 7], dtype="uint64"),
    })  # fmt: skip
    config = QualityConfig(0.5, 0.5, 0.01, 0.7, 0)
    assert quality_reasons(quality, config).to_dict() == {
        "f": "nodata (0.6, at most 0.5)",
        "e": "saturated (0.9, at most 0.5)",
        "d": "blurred (0.001, at least 0.01)",
        "c": "hazy (0.8, at most 0.7)",
        "b": "copy by perceptual hash (of a)",
        "a": "",
    }
    assert (quality_reasons(quality, QualityConfig()) == "").all()
    scores = pd.DataFrame({"tile_id": list("abcdef"), "entropy": np.linspace(0, 1, 6)})
    found = sample_diverse(
        scores, np.eye(6), np.ones((1, 6)), SamplingConfig(6, 1), left_out=quality_reasons(quality, config)
    )
    assert found.pool["tile_id"].tolist() == ["a"]
    assert found.dropped["reason"].tolist()[0] == "copy by perceptual hash (of a)"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_nodata", 1.1),
        ("max_saturated", -1),
        ("min_sharpness", "low"),
        ("max_haze", True),
        ("max_hash_distance", 40),
    ],
)
def test_settings_out_of_range_name_the_key(key, value):
    with pytest.raises(ValueError, match=rf"quality\.{key}"):
        QualityConfig(**{key: value})


def test_no_tiles_give_an_empty_table():
    empty = Tiles(np.zeros((0, 2, 4, 4), np.uint8))
    assert len(measure_quality(empty, STATISTICS)) == 0
