import logging

import numpy as np
import pytest
import shapely

from s5.data.ingest import IngestionConfig, IngestionError, ingest


def run(world, work_dir, seed=0, **config):
    return ingest(
        world.folder / "dataset.yml", IngestionConfig(**({"tile_size": 32} | config)), seed=seed, work_dir=work_dir
    )


def counts(result):
    return result.manifest["split"].value_counts().to_dict()


def test_val_and_test_are_cut_in_spatial_blocks(world, work_dir):
    world.pair("labeled", "scene", size=(320, 320), place=(0, 0))  # 100 tiles of 320 m
    world.card()
    result = run(world, work_dir, block_size=640.0)
    manifest = result.manifest
    assert set(manifest["split"]) == {"labeled", "val", "test"}
    assert manifest.groupby("group")["split"].nunique().max() == 1
    assert 0.14 <= (manifest["split"] == "test").mean() <= 0.27
    assert 0.14 <= (manifest["split"] == "val").mean() <= 0.27
    metres = manifest.to_crs("EPSG:32632")
    for _, group in metres.groupby("group"):
        left, bottom, right, top = group.total_bounds
        assert max(right - left, top - bottom) <= 640 + 320 + 1  # its centres lie in one block
    held = metres[metres["split"] != "labeled"].geometry.union_all()
    assert not metres[metres["split"] == "labeled"].geometry.buffer(-0.1).intersects(held).any()


def test_blocks_fit_the_area_when_no_size_is_given(world, work_dir):
    world.pair("labeled", "scene", size=(128, 128), place=(0, 0))
    world.card()
    found = counts(run(world, work_dir))
    assert sum(found.values()) == 16
    assert found["labeled"] >= 8
    assert min(found.values()) >= 2


def test_no_held_out_pixel_is_learnt_from_an_overlapping_image(world, work_dir):
    for i in range(12):
        world.pair("labeled", f"s{i:02}", place=(0, 20 * i))  # each overlaps the next by 12 pixels
    world.card()
    result = run(world, work_dir)
    metres = result.manifest.to_crs("EPSG:32632")
    held = metres[metres["split"] != "labeled"].geometry.union_all()
    learnt = metres[metres["split"] == "labeled"].geometry
    assert shapely.area(shapely.intersection(learnt.union_all(), held)) < 1e-3 * held.area
    assert "held_out" in set(result.quarantine["kind"])


def test_unlabelled_tiles_on_test_blocks_are_left_out(world, work_dir):
    world.pair("labeled", "scene", size=(320, 320), place=(0, 0))
    card = {
        "labeled": {"images": "labeled/images", "masks": "labeled/masks"},
        "unlabeled": {"images": "labeled/images"},
    }
    world.card(card)
    metres = run(world, work_dir).manifest.to_crs("EPSG:32632")
    test, unlabeled = (metres[metres["split"] == split].geometry.union_all() for split in ("test", "unlabeled"))
    assert shapely.area(shapely.intersection(test, unlabeled)) < 1e-3 * test.area
    assert (metres["split"] == "unlabeled").sum() >= 50


def test_groups_of_a_regex_stay_together(world, work_dir):
    for town in "abcdef":
        for i in range(3):
            world.pair("labeled", f"{town}_{i}")
    world.card(group=r"/(\w)_\d")
    manifest = run(world, work_dir).manifest
    assert set(manifest["group"]) == set("abcdef")
    assert manifest.groupby("group")["split"].nunique().max() == 1
    assert counts(run(world, work_dir)) == {"labeled": 12, "val": 3, "test": 3}


def test_groups_of_a_list_column_stay_together(world, work_dir):
    rows = ["image,mask,town"]
    for i in range(8):
        world.pair("labeled", f"p{i}")
        rows.append(f"labeled/images/p{i}.tif,labeled/masks/p{i}.tif,{'north' if i < 2 else f't{i}'}")
    world.text("l.csv", "\n".join(rows))
    world.card({"labeled": {"list": "l.csv"}}, group="town")
    manifest = run(world, work_dir).manifest
    assert manifest[manifest["group"] == "north"]["split"].nunique() == 1
    assert manifest["group"].nunique() == 7


def test_without_georeference_whole_files_are_held_out_with_a_warning(world, work_dir, caplog):
    for i in range(10):
        world.pair("labeled", f"p{i}", size=(64, 32))
    world.card()
    manifest = run(world, work_dir).manifest
    assert manifest.groupby("image")["split"].nunique().max() == 1
    assert counts(run(world, work_dir)) == {"labeled": 12, "val": 4, "test": 4}
    assert "val and test cut from 'labeled' by whole files" in caplog.text


def test_one_image_is_cut_in_strips_with_a_warning(world, work_dir, caplog):
    world.pair("labeled", "only", size=(320, 64))
    world.card()
    with caplog.at_level(logging.WARNING):
        manifest = run(world, work_dir).manifest
    assert "cut from the same images in strips" in caplog.text
    assert set(manifest["split"]) == {"labeled", "val", "test"}
    assert manifest.groupby("row")["split"].nunique().max() == 1
    assert len(manifest) == 20


def test_only_what_is_missing_is_cut(world, work_dir):
    for split in ("labeled", "test"):
        for i in range(10):
            world.pair(split, f"p{i}")
    world.card(["labeled", "test"])
    assert counts(run(world, work_dir)) == {"labeled": 8, "val": 2, "test": 10}
    assert counts(run(world, work_dir, val_share=0.0)) == {"labeled": 10, "test": 10}


def test_rare_classes_are_found_on_both_sides(world, work_dir):
    for i in range(20):
        world.image(f"labeled/images/p{i:02}.tif")
        world.mask(f"labeled/masks/p{i:02}.tif", values=np.full((32, 32), 2 if i in {3, 8, 14} else i % 2, np.uint8))
    world.card()
    manifest = run(world, work_dir).manifest
    rare = manifest[manifest["tile_id"].str.contains("p03|p08|p14")]
    assert set(rare["split"]) == {"labeled", "val", "test"}


@pytest.mark.parametrize("options", [{"group": "labeled"}, {}])
def test_too_few_groups_are_an_error_that_says_what_to_do(world, work_dir, options):
    world.pair("labeled", "a")
    world.pair("labeled", "b")
    world.card(**options)
    with pytest.raises(
        IngestionError, match=r"dataset.yml: the 2 labelled tiles lie in [12] groups, too few to cut val and"
    ):
        run(world, work_dir)


def test_a_block_size_that_holds_everything_is_an_error(world, work_dir):
    world.pair("labeled", "scene", size=(320, 320), place=(0, 0))
    world.card()
    with pytest.raises(IngestionError, match=r"lie in 1 groups.*block_size or tile_size smaller"):
        run(world, work_dir, block_size=1e6)
