import logging

import geopandas
import numpy as np
import pytest
from PIL import Image
from rasterio.shutil import copy as rasterio_copy

from s5.data.card import CardError
from s5.data.ingest import IngestionConfig, IngestionError, ingest
from s5.data.tiles import TileReader

ALL_GIVEN = {"val_share": 0.0, "test_share": 0.0}


def run(world, work_dir, seed=0, **config):
    card = world.folder / "dataset.yml"
    return ingest(card, IngestionConfig(**({"tile_size": 32} | ALL_GIVEN | config)), seed=seed, work_dir=work_dir)


def reasons(result):
    folder = result.card.folder
    return {
        (str(row.path).removeprefix(f"{folder}/"), row.split, row.kind): row.reason
        for row in result.quarantine.itertuples()
    }


def test_the_manifest_has_a_row_a_tile_on_the_right_spot(world, work_dir, tmp_path):
    for split in ("labeled", "val", "test"):
        world.pair(split, "scene", size=(64, 40), place=(0, 0))
    world.image("unlabeled/images/sub/other.tif", size=(64, 40), place=(0, 100))
    world.card(["labeled", "unlabeled", "val", "test"])
    manifest = run(world, work_dir).manifest
    assert list(manifest.columns) == [
        "tile_id", "split", "image", "mask", "row", "col", "height", "width", "group", "crs", "valid_share", "geometry",
    ]  # fmt: skip
    assert manifest["tile_id"].is_unique
    assert list(zip(manifest["split"], manifest["tile_id"], strict=True)) == sorted(
        zip(manifest["split"], manifest["tile_id"], strict=True)
    )
    labeled = manifest[manifest["split"] == "labeled"]
    assert list(labeled["tile_id"]) == [f"labeled/images/scene:{r}_{c}" for r, c in [(0, 0), (0, 8), (32, 0), (32, 8)]]
    assert set(labeled["mask"]) == {str(world.folder / "labeled/masks/scene.tif")}
    assert manifest[manifest["split"] == "unlabeled"]["mask"].tolist() == [None] * 4
    assert "unlabeled/images/sub/other:0_0" in set(manifest["tile_id"])
    # tiles of val and test never overlap: 64 x 40 pixels in 32 x 20
    assert manifest[manifest["split"] == "test"][["height", "width"]].drop_duplicates().to_numpy().tolist() == [
        [32, 20]
    ]
    assert set(manifest["crs"]) == {"EPSG:32632"}
    assert {str(manifest[name].dtype) for name in ("row", "col", "height", "width")} == {"int32"}
    assert str(manifest["valid_share"].dtype) == "float32"
    manifest.to_parquet(tmp_path / "m.parquet")
    read = geopandas.read_parquet(tmp_path / "m.parquet")
    assert read.crs == "EPSG:4326"
    metres = read[read["tile_id"] == "labeled/images/scene:0_0"].to_crs("EPSG:32632").total_bounds
    np.testing.assert_allclose(metres, [500_000, 4_999_680, 500_320, 5_000_000], atol=0.01)


@pytest.mark.parametrize("source", ["folder", "glob", "csv", "parquet", "one image"])
def test_files_are_found_in_folders_globs_and_lists(world, work_dir, source):
    world.pair("labeled", "a")
    world.pair("labeled", "b")
    world.text("labeled/images/a.tif.aux.xml", "<x/>")
    world.text("lists/l.csv", "image,mask\n../labeled/images/a.tif,../labeled/masks/a.tif\n")
    splits = {
        "folder": {"images": "labeled/images", "masks": "labeled/masks"},
        "glob": {"images": "labeled/im*/*.tif", "masks": "labeled/masks/*.tif"},
        "csv": {"list": "lists/l.csv"},
        "parquet": {"list": "lists/l.parquet"},
        "one image": {"images": "labeled/images/a.tif", "masks": "labeled/masks/a.tif"},
    }
    if source == "parquet":
        import pandas as pd

        pd.read_csv(world.folder / "lists/l.csv").to_parquet(world.folder / "lists/l.parquet")
    world.card({"labeled": splits[source]})
    result = run(world, work_dir)
    expected = ["labeled/images/a", "labeled/images/b"] if source in {"folder", "glob"} else ["labeled/images/a"]
    assert list(result.manifest["tile_id"]) == expected
    assert result.quarantine.empty
    assert set(result.manifest["image"]) == {str(world.folder / f"{name}.tif") for name in expected}


def test_every_kind_of_image_is_read_as_it_is(world, work_dir):
    image = {name: world.image(f"i/{name}.{name}", size=(20, 20)) for name in ("tif", "png")}
    world.image("i/whole.tif", size=(40, 40))
    rasterio_copy(world.folder / "i/whole.tif", world.folder / "i/cog.tif", driver="COG", blocksize=128)
    Image.fromarray(world.rng.integers(0, 255, (20, 20, 3)).astype(np.uint8)).save(world.folder / "i/jpg.jpg")
    world.card({"unlabeled": {"images": "i"}})
    result = run(world, work_dir)
    assert result.quarantine.empty
    assert len(result.manifest) == 3 + 4 + 4
    reader = TileReader(result.manifest, bands=3, size=32)
    for name, values in image.items():
        found, _, valid = reader.read(reader.tile_ids.index(f"i/{name}"))
        np.testing.assert_array_equal(found[:, :20, :20], values)
        assert valid.sum() == 400


@pytest.mark.parametrize(("dtype", "bands"), [("uint16", 13), ("float32", 2), ("uint8", 1)])
def test_any_number_of_bands_and_dtype(world, work_dir, dtype, bands):
    values = world.image("i/a.tif", bands=bands, dtype=dtype)
    world.card({"unlabeled": {"images": "i"}}, bands=[f"b{i}" for i in range(bands)])
    result = run(world, work_dir)
    found, _, _ = TileReader(result.manifest, bands=bands, size=32).read(0)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, values)
    assert len(result.statistics.low) == bands


def test_what_cannot_be_used_is_quarantined_with_its_reason(world, work_dir):
    world.pair("labeled", "good", place=(0, 0))
    for name in ("value", "size", "shifted", "no_mask", "two_bands", "truncated_mask", "unlabelled", "crs"):
        world.image(f"labeled/images/{name}.tif", place=(0, 0))
    world.mask("labeled/masks/value.tif", values=np.full((32, 32), 1, np.uint8))
    bad = np.zeros((32, 32), np.uint8)
    bad[5, 9] = 7
    world.mask("labeled/masks/value.tif", values=bad)
    world.mask("labeled/masks/size.tif", size=(32, 31))
    world.mask("labeled/masks/shifted.tif", place=(0, 3))
    world.image("labeled/masks/two_bands.tif", bands=2)
    world.mask("labeled/masks/unlabelled.tif", values=np.full((32, 32), 255, np.uint8))
    world.mask("labeled/masks/alone.tif")
    truncated = world.folder / "labeled/masks/truncated_mask.tif"
    world.mask("labeled/masks/truncated_mask.tif")
    truncated.write_bytes(truncated.read_bytes()[:-200])
    from s5.geo.raster import write_geotiff

    write_geotiff(world.folder / "labeled/masks/crs.tif", bad * 0, transform=world.transform((0, 0)), crs="EPSG:32633")
    result = run_on_folder(world, work_dir)
    found = reasons(result)
    assert set(result.manifest["tile_id"]) == {"labeled/images/good"}
    assert {(path.split("/")[-1], kind) for path, _, kind in found} == {
        ("value.tif", "mask_value"), ("size.tif", "mask_size"), ("shifted.tif", "mask_grid"), ("crs.tif", "mask_crs"),
        ("no_mask.tif", "mask_missing"), ("two_bands.tif", "mask_bands"), ("truncated_mask.tif", "truncated"),
        ("unlabelled.tif", "no_labels"), ("alone.tif", "image_missing"),
    }  # fmt: skip
    by_kind = {kind: reason for (_, _, kind), reason in found.items()}
    assert by_kind["mask_value"] == (
        "dataset.yml: class list has 3 names but labeled/masks/value.tif holds value 7 at row 5, column 9 (expected "
        "0..2 or 255); extend 'classes' or map it with 'ignore_values'"
    )
    assert "is 32 x 31 pixels but its image labeled/images/size.tif is 32 x 32" in by_kind["mask_size"]
    assert "lies 3.0 pixels away" in by_kind["mask_grid"]
    assert "is in EPSG:32633 but its image labeled/images/crs.tif in EPSG:32632" in by_kind["mask_crs"]
    assert all(str(world.folder) not in reason for reason in by_kind.values())


def run_on_folder(world, work_dir, **config):
    world.card()
    return run(world, work_dir, **config)


def test_damaged_and_foreign_images_are_quarantined(world, work_dir):
    world.image("i/good.tif", size=(64, 64))
    world.image("i/float.tif", dtype="float64")
    world.image("i/reflectance.tif", dtype="uint16")
    world.image("i/bands.tif", bands=2)
    world.image("i/blank.tif", values=np.zeros((3, 32, 32), np.uint8), nodata=0)
    striped = np.full((3, 64, 64), 9, np.uint8)
    striped[:, 32:] = 0
    world.image("i/striped.tif", values=striped, nodata=0)
    world.image("i/whole.tif", size=(300, 300))
    content = (world.folder / "i/whole.tif").read_bytes()
    (world.folder / "i/cut.tif").write_bytes(content[: len(content) // 2])
    world.image("i/whole2.png", size=(300, 300))
    content = (world.folder / "i/whole2.png").read_bytes()
    (world.folder / "i/cut.png").write_bytes(content[: len(content) // 2])
    world.text("i/words.tif", "no raster")
    world.text("i/notes.txt", "not an image at all")
    world.text("i/.hidden.tif", "")
    world.card({"unlabeled": {"images": "i"}})
    result = run(world, work_dir)
    found = {path.removeprefix("i/"): kind for path, _, kind in reasons(result)}
    assert found == {
        "float.tif": "dtype", "reflectance.tif": "dtype", "bands.tif": "band_count", "blank.tif": "nodata",
        "striped.tif": "nodata", "cut.tif": "truncated", "cut.png": "truncated", "words.tif": "unreadable",
        "notes.txt": "not_an_image",
    }  # fmt: skip
    assert list(result.quarantine.columns) == ["path", "split", "kind", "reason"]
    assert set(result.manifest["tile_id"]) >= {"i/striped:0_0", "i/striped:0_32"}
    assert "i/striped:32_0" not in set(result.manifest["tile_id"])
    text = "\n".join(reasons(result).values())
    assert "has 2 bands, expected the 3 of the card (red, green, blue)" in text
    assert "i/striped.tif: 2 of its 4 tiles do not hold any valid pixels" in text
    assert "holds uint16 where" in text


def test_tiles_with_too_little_data_are_left_out(world, work_dir):
    values = np.full((3, 32, 64), 9, np.uint8)
    values[:, :20, 32:] = 0
    world.image("i/a.tif", values=values, nodata=0)
    world.card({"unlabeled": {"images": "i"}})
    manifest = run(world, work_dir).manifest
    assert manifest["valid_share"].tolist() == pytest.approx([1.0, 0.375])
    assert run(world, work_dir, min_valid_share=0.5).manifest["tile_id"].tolist() == ["i/a:0_0"]


def test_a_list_may_name_what_is_not_there_or_twice(world, work_dir):
    world.pair("labeled", "a")
    world.text("l.csv", "image,mask\n"
               "labeled/images/a.tif,labeled/masks/a.tif\nlabeled/images/a.tif,labeled/masks/a.tif\n"
               "labeled/images/gone.tif,labeled/masks/a.tif\n,labeled/masks/a.tif\n")  # fmt: skip
    world.card({"labeled": {"list": "l.csv"}})
    result = run(world, work_dir)
    assert len(result.manifest) == 1
    assert sorted(kind for _, _, kind in reasons(result)) == ["duplicate", "image_missing", "missing"]


def test_an_unlabelled_image_may_have_a_mask_and_is_used_without_a_bad_one(world, work_dir):
    world.image("u/a.tif")
    world.image("u/b.tif")
    world.image("u/c.tif")
    mask = world.mask("m/a.tif")
    world.mask("m/b.tif", values=np.full((32, 32), 9, np.uint8))
    world.card({"unlabeled": {"images": "u", "masks": "m"}})
    result = run(world, work_dir)
    assert result.manifest["mask"].tolist() == [str(world.folder / "m/a.tif"), None, None]
    assert {(path, kind) for path, _, kind in reasons(result)} == {("m/b.tif", "mask_value")}
    np.testing.assert_array_equal(TileReader(result.manifest, bands=3, size=32).read(0)[1], mask)


def test_an_image_in_several_splits_has_tiles_of_different_names(world, work_dir, caplog):
    world.pair("labeled", "a")
    world.pair("labeled", "b")
    masks = {"images": "labeled/images", "masks": "labeled/masks"}
    world.card({"labeled": masks, "unlabeled": {"images": "labeled/images"}, "noisy": masks, "test": masks})
    with caplog.at_level(logging.WARNING):
        manifest = run(world, work_dir).manifest
    assert manifest["tile_id"].is_unique
    assert set(manifest[manifest["split"] == "labeled"]["tile_id"]) == {"labeled/images/a", "labeled/images/b"}
    assert "labeled/images/a@unlabeled" in set(manifest["tile_id"])
    assert "2 images of split 'test' are also in 'labeled' or 'noisy'" in caplog.text


def test_images_that_differ_by_suffix_alone_keep_it(world, work_dir):
    world.image("i/a.tif")
    world.image("i/a.png")
    world.card({"unlabeled": {"images": "i"}})
    assert set(run(world, work_dir).manifest["tile_id"]) == {"i/a.tif", "i/a.png"}


def test_images_outside_the_folder_of_the_card(world, work_dir):
    world.image("i/a.tif")
    (world.folder / "cards").mkdir()
    card = world.card({"unlabeled": {"images": "../i"}}).rename(world.folder / "cards/dataset.yml")
    result = ingest(card, IngestionConfig(tile_size=32), seed=0, work_dir=work_dir)
    assert result.manifest["tile_id"].tolist() == ["../i/a"]
    assert result.manifest["image"].tolist() == [str(world.folder / "i/a.tif")]


@pytest.mark.parametrize("splits", [["test"], ["unlabeled"], ["noisy", "test"]])
def test_a_card_may_hold_only_some_splits(world, work_dir, splits):
    for split in splits:
        world.pair(split, "a")
    world.card(splits)
    assert set(run(world, work_dir, val_share=0.2, test_share=0.2).manifest["split"]) == set(splits)


def test_nothing_left_is_an_error_that_counts_the_reasons(world, work_dir):
    for name in ("a", "b"):
        world.image(f"labeled/images/{name}.tif")
        world.mask(f"labeled/masks/{name}.tif", values=np.full((32, 32), 7, np.uint8))
    world.text("labeled/images/c.tif", "no raster")
    world.mask("labeled/masks/c.tif")
    world.card()
    message = (
        r"^dataset.yml: nothing usable is left of split 'labeled': 3 files in quarantine \(2 mask_value, "
        r"1 unreadable\). The first: dataset.yml: class list has 3 names but labeled/masks/a.tif holds value 7 at row 0"
    )
    with pytest.raises(IngestionError, match=message):
        run(world, work_dir)


def test_an_empty_split_is_an_error(world, work_dir):
    (world.folder / "u").mkdir()
    world.card({"unlabeled": {"images": "u"}})
    with pytest.raises(CardError, match=r"dataset.yml: split 'unlabeled' is empty: u holds no image"):
        run(world, work_dir)
    world.text("l.csv", "image,mask\n")
    world.card({"unlabeled": {"list": "l.csv"}})
    with pytest.raises(CardError, match=r"split 'unlabeled' is empty: l.csv holds no image"):
        run(world, work_dir)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("l.csv", "picture\na.tif\n", r"l.csv has no column 'image' \(found \['picture'\]\)"),
        ("l.txt", "a.tif\n", r"expected a .csv or .parquet file, got l.txt"),
        ("l.parquet", "no parquet", r"l.parquet cannot be read as a table"),
        ("l.csv", "", r"l.csv cannot be read as a table"),
    ],
)
def test_a_list_that_is_none_is_named(world, work_dir, name, content, message):
    world.text(name, content)
    world.card({"unlabeled": {"list": name}})
    with pytest.raises(CardError, match=message):
        run(world, work_dir)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"tile_size": 0}, "ingestion.tile_size: expected a whole number of at least 1, got 0"),
        ({"tile_size": -5}, "ingestion.tile_size"),
        ({"tile_size": 2.5}, "ingestion.tile_size"),
        ({"tile_size": "big"}, "ingestion.tile_size: .* got 'big'"),
        ({"tile_size": True}, "ingestion.tile_size"),
        ({"stride": 0}, r"ingestion.stride: expected 1..tile_size \(256\), got 0"),
        ({"stride": 300}, "ingestion.stride"),
        ({"min_valid_share": 1.5}, "ingestion.min_valid_share: expected a share in 0..1, got 1.5"),
        ({"val_share": -0.1}, "ingestion.val_share"),
        ({"val_share": 0.5, "test_share": 0.5}, "leaves nothing of 'labeled'"),
        ({"block_size": 0}, "ingestion.block_size: expected metres over 0, got 0"),
        ({"statistics_samples": 0}, "ingestion.statistics_samples"),
    ],
)
def test_a_wrong_setting_is_named(config, message):
    with pytest.raises(ValueError, match=message):
        IngestionConfig(**config)


def test_the_same_seed_gives_the_same_tables(world, work_dir):
    for i in range(12):
        world.pair("labeled", f"s{i}", place=(0, 32 * i))
    world.card()
    first, second, other = (run(world, work_dir, seed=s, val_share=0.2, test_share=0.2) for s in (3, 3, 4))
    assert first.manifest.equals(second.manifest)
    assert first.statistics == second.statistics
    assert first.manifest["tile_id"].tolist() != other.manifest["tile_id"].tolist()  # sorted by split


def test_a_full_disk_is_no_reason_for_quarantine(world, work_dir, monkeypatch):
    world.pair("labeled", "a")
    world.card(ignore_values=[9])

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("s5.geo.raster.write_blocks", full)
    with pytest.raises(OSError, match="No space left"):
        run(world, work_dir)


def test_a_truncated_mask_that_must_be_converted_is_quarantined(world, work_dir):
    world.pair("labeled", "good")
    world.image("labeled/images/cut.tif", size=(300, 300))
    world.mask("labeled/masks/cut.tif", size=(300, 300), dtype="int16")
    content = (world.folder / "labeled/masks/cut.tif").read_bytes()
    (world.folder / "labeled/masks/cut.tif").write_bytes(content[: len(content) // 2])
    result = run_on_folder(world, work_dir)
    assert [(path, kind) for path, _, kind in reasons(result)] == [("labeled/images/cut.tif", "truncated")]
    assert not list(work_dir.rglob("*.tif"))
