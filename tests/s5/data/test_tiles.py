import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import rasterio

from s5.data.tiles import TileReader


@pytest.fixture
def scene(world):
    image, mask = world.pair("labeled", "scene", size=(40, 50))
    rows = [(0, 0, 32, 32), (8, 18, 32, 32), (32, 48, 8, 2)]
    manifest = pd.DataFrame(
        [
            {"tile_id": f"t{i}", "image": str(world.folder / "labeled/images/scene.tif"),
             "mask": str(world.folder / "labeled/masks/scene.tif"), "row": r, "col": c, "height": h, "width": w}
            for i, (r, c, h, w) in enumerate(rows)
        ]
    )  # fmt: skip
    return image, mask, manifest


def test_tiles_are_their_windows_padded_at_the_bottom_and_right(scene):
    image, mask, manifest = scene
    reader = TileReader(manifest, bands=3, size=32)
    assert len(reader) == 3
    assert reader.tile_ids == ["t0", "t1", "t2"]
    found, labels, valid = reader.read(1)
    np.testing.assert_array_equal(found, image[:, 8:40, 18:50])
    np.testing.assert_array_equal(labels, mask[8:40, 18:50])
    assert valid.all()
    found, labels, valid = reader.read(2)
    assert (found.shape, labels.shape, valid.shape) == ((3, 32, 32), (32, 32), (32, 32))
    assert (found.dtype, labels.dtype, valid.dtype) == (np.uint8, np.uint8, np.bool_)
    np.testing.assert_array_equal(labels[:8, :2], mask[32:, 48:])
    assert valid.sum() == 16
    assert (labels[~valid] == 255).all()
    assert (found[:, ~valid] == 0).all()


def test_chosen_bands_are_read_in_their_order(scene):
    image, mask, manifest = scene
    found, labels, valid = TileReader(manifest, bands=3, size=32, chosen=[2, 0]).read(1)
    np.testing.assert_array_equal(found, image[[2, 0], 8:40, 18:50])
    np.testing.assert_array_equal(labels, mask[8:40, 18:50])
    assert valid.all() and not found.flags.writeable


@pytest.mark.parametrize("none", [None, float("nan"), ""])
def test_without_mask_nothing_is_labelled(scene, none):
    _, _, manifest = scene
    manifest["mask"] = pd.Series([none] * 3, dtype=object)
    _, labels, valid = TileReader(manifest, bands=3, size=32, ignore_index=99).read(0)
    assert (labels == 99).all()
    assert valid.all()


def test_nodata_is_neither_image_nor_label(world):
    values = np.full((2, 16, 16), 5.0, dtype=np.float32)
    values[0, 3, 4] = -9999.0
    world.image("a.tif", values=values, nodata=-9999.0)
    world.mask("m.tif", size=(16, 16))
    manifest = pd.DataFrame(
        [{"tile_id": "a", "image": str(world.folder / "a.tif"), "mask": str(world.folder / "m.tif"),
          "row": 0, "col": 0, "height": 16, "width": 16}]
    )  # fmt: skip
    image, labels, valid = TileReader(manifest, bands=2, size=16).read(0)
    assert not valid[3, 4]
    assert valid.sum() == 255
    assert image[:, 3, 4].tolist() == [0.0, 0.0]
    assert labels[3, 4] == 255


def test_the_cache_stays_within_its_bound_and_gives_the_same(scene):
    _, _, manifest = scene
    manifest = pd.concat([manifest] * 100, ignore_index=True)
    cached, uncached = (TileReader(manifest, bands=3, size=32, cache_mb=mb) for mb in (1, 0))
    for index in [*range(200), *range(199, -1, -7)]:
        for a, b in zip(cached.read(index), uncached.read(index), strict=True):
            np.testing.assert_array_equal(a, b)
    assert cached.read(5)[0] is cached.read(5)[0]
    assert uncached.read(5)[0] is not uncached.read(5)[0]
    kept = sum(a.nbytes for tile in cached._cache._tiles.values() for a in tile)
    assert 0.9 * 2**20 < kept <= 2**20


def test_a_reader_is_pickled_and_used_in_threads(scene):
    image, _, manifest = scene
    reader = TileReader(manifest, bands=3, size=32)
    reader.read(0)
    copy = pickle.loads(pickle.dumps(reader))
    with ThreadPoolExecutor(4) as pool:
        for found, _, _ in pool.map(copy.read, [0] * 20):
            np.testing.assert_array_equal(found, image[:, :32, :32])


def test_what_changed_since_the_ingestion_is_named(scene, world):
    _, _, manifest = scene
    with pytest.raises(ValueError, match="has 3 bands, expected 4; ingest again"):
        TileReader(manifest, bands=4, size=32).read(0)
    with pytest.raises(ValueError, match="larger than the 16 pixels"):
        TileReader(manifest, bands=3, size=16).read(0)
    (world.folder / "labeled/images/scene.tif").unlink()
    with pytest.raises(OSError, match=r"scene\.tif: cannot be opened"):
        TileReader(manifest, bands=3, size=32).read(0)


def test_many_tiles_are_read_as_one_by_one(scene, world):
    _, _, manifest = scene
    image = world.image("masked.tif")
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(world.folder / "masked.tif", "r+") as target:
        target.write_mask(np.arange(32) < np.full((32, 1), 5))
    world.image("plain.png")
    row = {"mask": None, "row": 0, "col": 0, "height": 32, "width": 32}
    others = [row | {"tile_id": n, "image": str(world.folder / n)} for n in ("masked.tif", "plain.png")]
    manifest = pd.concat([manifest[:1], pd.DataFrame(others), manifest[1:]], ignore_index=True)
    reader = TileReader(manifest, bands=3, size=32, cache_mb=0)
    single = [reader.read(index) for index in range(5)]
    with ThreadPoolExecutor(1) as pool:
        many = pool.submit(reader.read_many, range(5)).result()
    for one, other in zip(single, many, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)
    found, _, valid = many[1]
    np.testing.assert_array_equal(valid, np.arange(32) < np.full((32, 1), 5))
    np.testing.assert_array_equal(found, np.where(valid, image, 0))


@pytest.mark.parametrize("options", [{"bands": 0}, {"size": 0}, {"cache_mb": -1}])
def test_impossible_sizes_are_refused(scene, options):
    with pytest.raises(ValueError, match="TileReader: "):
        TileReader(scene[2], **({"bands": 3, "size": 32} | options))
