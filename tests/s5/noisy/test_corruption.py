"""Noise models: measured rates, what they leave alone, and what they look like."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st

from s5.geo.raster import write_geotiff
from s5.noisy import CorruptionConfig, corrupt, corrupted_masks, measured_rate
from s5.noisy.masks import on_the_ground
from s5.types import LabelSpace

IGNORE = 255


def fields(size: int = 256, seed: int = 0) -> np.ndarray:
    """Fields of class 0 with objects of classes 1 to 3 of many sizes, and a corner without labels."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((size, size), np.uint8)
    for _ in range(220):
        row, col, height, width = (*rng.integers(0, size - 8, 2), *rng.integers(2, 22, 2))
        mask[row : row + height, col : col + width] = rng.integers(1, 4)
    mask[:20, :30] = IGNORE
    return mask


def made(kind: str, mask: np.ndarray, seed: int = 0, **options: object) -> np.ndarray:
    config = CorruptionConfig(kind=kind, **options)
    return corrupt(mask, config, np.random.default_rng(seed), classes=4, ignore_index=IGNORE)


@pytest.mark.parametrize("kind", ["symmetric", "shift", "rotation", "missing", "merged", "stale"])
@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_the_measured_rate_is_the_asked_one(kind: str, rate: float) -> None:
    mask = fields()
    noisy = made(kind, mask, rate=rate)
    # counted here, not by the function under test
    wrong = np.mean([a != b for a, b in zip(noisy[mask != IGNORE], mask[mask != IGNORE], strict=True)])
    assert wrong == pytest.approx(rate, abs=0.01)
    assert measured_rate(noisy, mask, IGNORE) == pytest.approx(wrong, abs=1e-12)
    assert np.array_equal(noisy == IGNORE, mask == IGNORE)
    assert noisy[mask != IGNORE].max() < 4
    assert np.array_equal(noisy, made(kind, mask, rate=rate))


def test_classes_are_confused_as_asked() -> None:
    rows = ((0.7, 0.1, 0.1, 0.1), (0.0, 1.0, 0.0, 0.0), (0.25, 0.25, 0.25, 0.25), (0.5, 0.0, 0.0, 0.5))
    mask = np.repeat(np.arange(4, dtype=np.uint8), 40_000).reshape(400, 400)
    noisy = made("class_conditional", mask, confusion=rows)
    for k, row in enumerate(rows):
        assert np.bincount(noisy[mask == k], minlength=4) / 40_000 == pytest.approx(row, abs=0.01)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 9), st.integers(3, 40), st.integers(3, 40))
def test_blocks_hold_their_commonest_class(seed: int, block: int, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, 4, (height, width)).astype(np.uint8)
    mask[rng.random(mask.shape) < 0.2] = IGNORE
    noisy = made("coarse", mask, block=block)
    for row in range(0, height, block):
        for col in range(0, width, block):
            cell = mask[row : row + block, col : col + block]
            known = cell != IGNORE
            if known.any():
                counts = [int((cell == k).sum()) for k in range(4)]
                assert set(noisy[row : row + block, col : col + block][known]) == {counts.index(max(counts))}


def test_blocks_in_metres() -> None:
    config = CorruptionConfig(kind="coarse", block_metres=30.0)
    assert on_the_ground(config, 2.5).block == 12
    with pytest.raises(ValueError, match="has no CRS"):
        on_the_ground(config, None)


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:32632", (10.0, 0.0, 500000.0, 0.0, -10.0, 5300000.0)),
        ("EPSG:4326", (9e-5, 0.0, 9.0, 0.0, -9e-5, 0.002)),  # 10 m at the equator
        ("EPSG:2263", (32.80833, 0.0, 987000.0, 0.0, -32.80833, 207000.0)),  # US survey feet
    ],
)
def test_blocks_in_metres_on_maps_in_other_units(
    crs: str, transform: tuple[float, float, float, float, float, float], tmp_path: Path
) -> None:
    clean = fields(48)
    write_geotiff(tmp_path / "clean.tif", clean, transform=transform, crs=crs)
    config = CorruptionConfig(kind="coarse", block_metres=40.0)
    labels = LabelSpace(classes=("a", "b", "c", "d"), ignore_index=IGNORE)
    copies = corrupted_masks([str(tmp_path / "clean.tif")], config, tmp_path / "made", seed=0, labels=labels)
    with rasterio.open(copies[str(tmp_path / "clean.tif")]) as made:
        found = made.read(1)
    expected = corrupt(
        clean, CorruptionConfig(kind="coarse", block=4), np.random.default_rng(0), classes=4, ignore_index=IGNORE
    )
    assert np.array_equal(found, expected)


def test_missing_objects_are_gone_whole_and_merged_ones_have_no_gap() -> None:
    mask = np.zeros((60, 60), np.uint8)
    mask[5:15, 5:15], mask[5:15, 18:28], mask[40:50, 40:50] = 1, 1, 2
    gone = made("missing", mask, rate=100 / 3600)
    boxes = (np.s_[5:15, 5:15], np.s_[5:15, 18:28], np.s_[40:50, 40:50])
    assert [len(np.unique(gone[box])) for box in boxes] == [1, 1, 1]
    assert (gone != mask).sum() == 100 and set(gone[gone != mask]) == {0}
    merged = made("merged", mask, rate=24 / 3600)
    assert (merged[6:14, 15:18] == 1).all() and (merged != mask).sum() == 24  # a round brush leaves the corners


@pytest.mark.parametrize("kind", ["symmetric", "shift", "rotation", "missing", "merged", "stale", "coarse"])
def test_maps_without_labels_or_with_one_class_or_one_pixel(kind: str) -> None:
    for mask in (np.full((9, 9), IGNORE, np.uint8), np.zeros((9, 9), np.uint8), np.zeros((1, 1), np.uint8)):
        noisy = made(kind, mask, rate=0.5)
        assert noisy.shape == mask.shape and np.array_equal(noisy == IGNORE, mask == IGNORE)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kind": "blur"}, "kind: expected one of"),
        ({"rate": 1.0}, r"rate: expected a share in \[0, 1\)"),
        ({"kind": "coarse", "block": 1}, "block: expected at least 2"),
        ({"kind": "class_conditional"}, "confusion: class_conditional needs a row"),
        ({"kind": "class_conditional", "confusion": ((0.5, 0.4), (0, 1))}, "row 0 must hold 2 probabilities"),
        ({"block_metres": 0.0}, "block_metres: expected metres"),
    ],
)
def test_bad_noise(options: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        CorruptionConfig(**options)
    with pytest.raises(ValueError, match="a row for each of 4 classes"):
        made("class_conditional", fields(), confusion=((0.5, 0.5), (0.5, 0.5)))
