import numpy as np
import pytest

from s5.data.ingest import IngestionConfig, ingest


def run(world, work_dir, bands, splits=None, samples=256, seed=0, **keys):
    card = world.card(splits or {"unlabeled": {"images": "i"}}, bands=bands, **keys)
    config = IngestionConfig(tile_size=32, val_share=0, test_share=0, statistics_samples=samples)
    return ingest(card, config, seed=seed, work_dir=work_dir).statistics


def test_bytes_are_scaled_from_0_to_255(world, work_dir):
    image = world.image("i/a.tif", size=(64, 64))
    found = run(world, work_dir, ["r", "g", "b"])
    assert (found.low, found.high) == ((0.0,) * 3, (255.0,) * 3)
    np.testing.assert_allclose(found.mean, image.reshape(3, -1).mean(axis=1) / 255, rtol=1e-6)
    np.testing.assert_allclose(found.std, image.reshape(3, -1).std(axis=1) / 255, rtol=1e-6)


def test_a_scale_is_a_divisor(world, work_dir):
    image = world.image("i/a.tif", bands=2, values=world.rng.integers(0, 9000, (2, 32, 32)).astype(np.uint16))
    found = run(world, work_dir, ["r", "n"], scale=10000)
    assert (found.low, found.high) == ((0.0, 0.0), (10000.0, 10000.0))
    np.testing.assert_allclose(found.mean, image.reshape(2, -1).mean(axis=1) / 10000, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_otherwise_percentiles_of_each_band_without_nodata(world, work_dir, dtype):
    values = world.rng.integers(1000, 9000, (2, 64, 64)).astype(dtype)
    values[1] *= 3
    gone = world.rng.random((64, 64)) < 0.2
    values[:, gone] = 0
    world.image("i/a.tif", values=values, nodata=0)
    found = run(world, work_dir, ["r", "n"])
    kept = values[:, ~gone].astype(np.float64)
    low, high = np.percentile(kept, 0.5, axis=1), np.percentile(kept, 99.5, axis=1)
    np.testing.assert_allclose(found.low, low, rtol=1e-6)
    np.testing.assert_allclose(found.high, high, rtol=1e-6)
    scaled = (kept - low[:, None]) / (high - low)[:, None]
    np.testing.assert_allclose(found.mean, scaled.mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(found.std, scaled.std(axis=1), rtol=1e-6)


def test_a_constant_band_is_not_blown_up(world, work_dir):
    world.image("i/a.tif", values=np.full((1, 32, 32), 700, np.uint16))
    found = run(world, work_dir, ["dead"])
    assert found.high[0] > found.low[0]
    assert found.std[0] > 0


def test_tiles_to_be_judged_on_are_not_looked_at(world, work_dir):
    for split, value in (("labeled", 10), ("test", 200)):
        world.image(f"{split}/images/a.tif", values=np.full((3, 32, 32), value, np.uint8))
        world.mask(f"{split}/masks/a.tif")
    folders = {s: {"images": f"{s}/images", "masks": f"{s}/masks"} for s in ("labeled", "test")}
    assert run(world, work_dir, ["r", "g", "b"], folders).mean == pytest.approx([10 / 255] * 3)
    only_test = {"test": folders["test"]}
    assert run(world, work_dir, ["r", "g", "b"], only_test).mean == pytest.approx([200 / 255] * 3)


def test_a_sample_is_near_the_whole_and_the_same_for_the_same_seed(world, work_dir):
    image = world.image("i/a.tif", size=(320, 320), bands=1)
    whole, sample, again = (run(world, work_dir, ["b"], samples=n, seed=1) for n in (100, 20, 20))
    assert sample == again
    assert sample != whole
    np.testing.assert_allclose(sample.mean, image.mean() / 255, rtol=0.02)
