import numpy as np
import pytest
import shapely
from PIL import Image

from s5.data.ingest import IngestionConfig, IngestionError, ingest
from s5.data.tiles import TileReader
from s5.geo.raster import describe, read_window, write_geotiff
from s5.geo.vector import write_polygons

COLOURS = {"field": [255, 200, 0], "water": [0, 0, 255], "road": [90, 90, 90]}
RGB = np.array(list(COLOURS.values()), dtype=np.uint8)


def run(world, work_dir, **keys):
    splits = {"labeled": {"images": "images", "masks": keys.pop("masks", "masks")}}
    config = IngestionConfig(tile_size=32, val_share=0, test_share=0)
    return ingest(world.card(splits, **keys), config, seed=0, work_dir=work_dir)


def only_mask(result):
    (path,) = set(result.manifest["mask"])
    return read_window(path)[0][0]


def test_an_index_raster_is_used_as_it_is(world, work_dir):
    world.image("images/a.tif")
    mask = world.mask("masks/a.png")
    result = run(world, work_dir)
    assert result.manifest["mask"].tolist() == [str(world.folder / "masks/a.png")]
    np.testing.assert_array_equal(TileReader(result.manifest, bands=3, size=32).read(0)[1], mask)
    assert not (work_dir / "masks").exists()


@pytest.mark.parametrize("kind", ["rgb", "rgba", "paletted"])
def test_colours_become_indices_byte_for_byte(world, work_dir, kind):
    expected = world.rng.integers(0, 3, (32, 32))
    expected[4:6] = 255
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[expected < 3] = RGB[expected[expected < 3]]
    image = Image.fromarray(pixels)
    if kind == "rgba":
        image.putalpha(Image.fromarray(np.where(expected == 255, 0, 255).astype(np.uint8)))
    elif kind == "paletted":
        image = image.convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
    (world.folder / "masks").mkdir()
    image.save(world.folder / "masks/a.png")
    world.image("images/a.tif", place=(0, 0))
    result = run(world, work_dir, palette=COLOURS | {"ignore": [0, 0, 0]})
    np.testing.assert_array_equal(only_mask(result), expected)
    made = describe(result.manifest["mask"][0])
    assert (made.dtype, made.bands, made.crs) == ("uint8", 1, "EPSG:32632")


def test_an_unknown_colour_names_file_colour_and_pixel(world, work_dir):
    pixels = np.full((32, 32, 3), RGB[1], np.uint8)
    pixels[3, 8] = (1, 2, 3)
    (world.folder / "masks").mkdir()
    Image.fromarray(pixels).save(world.folder / "masks/a.png")
    world.image("images/a.tif")
    with pytest.raises(IngestionError, match=r"masks/a.png holds colour \[1, 2, 3\] at row 3, column 8.*'palette'"):
        run(world, work_dir, palette=COLOURS)
    assert not list((work_dir / "masks").rglob("*.tif"))


def test_colours_without_palette_are_refused(world, work_dir):
    (world.folder / "masks").mkdir()
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(world.folder / "masks/a.png")
    world.image("images/a.tif")
    with pytest.raises(IngestionError, match="has 3 bands, expected 1; give 'palette'"):
        run(world, work_dir)


def test_a_legend_translates_a_land_cover_raster(world, work_dir):
    values = world.rng.choice([11, 41, 82, 0], (32, 32)).astype(np.uint8)
    world.image("images/a.tif")
    world.mask("masks/a.tif", values=values)
    result = run(world, work_dir, legend={11: "water", 41: "field", 82: "field", 0: None})
    expected = np.select([values == 11, values == 0], [1, 255], 0)
    np.testing.assert_array_equal(only_mask(result), expected)
    with pytest.raises(IngestionError, match="holds value 82 "):
        run(world, work_dir, legend={11: "water", 41: "field", 0: None})


@pytest.mark.parametrize(
    ("dtype", "nodata", "unlabelled", "keys"),
    [
        ("int16", None, -1, {"ignore_values": [-1]}),
        ("int16", -1, -1, {}),
        ("float32", None, np.nan, {}),
        ("uint8", 200, 200, {}),
        ("uint8", None, 200, {"ignore_values": 200}),
        ("uint16", None, 255, {}),
    ],
)
def test_values_without_a_label_become_ignore_index(world, work_dir, dtype, nodata, unlabelled, keys):
    values = world.rng.integers(0, 3, (32, 32)).astype(dtype)
    expected = values.astype(np.uint8)
    values[2:5], expected[2:5] = unlabelled, 255
    world.image("images/a.tif")
    world.mask("masks/a.tif", values=values, nodata=nodata)
    result = run(world, work_dir, **keys)
    np.testing.assert_array_equal(only_mask(result), expected)
    assert describe(result.manifest["mask"][0]).dtype == "uint8"


def test_a_wide_value_is_not_cut_down_to_a_class(world, work_dir):
    values = np.zeros((32, 32), np.uint16)
    values[1, 2] = 256
    world.image("images/a.tif")
    world.mask("masks/a.tif", values=values)
    with pytest.raises(IngestionError, match="holds value 256 at row 1, column 2"):
        run(world, work_dir)


def labels_of(world, crs):
    import geopandas

    boxes = [shapely.box(500_010, 4_999_700, 500_200, 4_999_950), shapely.box(500_100, 4_999_750, 500_300, 4_999_900)]
    frame = geopandas.GeoDataFrame({"kind": ["water", "road"]}, geometry=boxes, crs="EPSG:32632").to_crs(crs)
    expected = np.full((32, 32), 255)
    expected[5:30, 1:20] = 1
    expected[10:25, 10:30] = 2
    return list(frame.geometry), {"kind": ["water", "road"]}, expected


@pytest.mark.parametrize("crs", ["EPSG:32632", "EPSG:4326"])
@pytest.mark.parametrize("suffix", ["gpkg", "geojson", "parquet"])
@pytest.mark.parametrize("background", [None, "field"])
def test_vector_labels_in_any_crs_are_burnt_on_the_grid(world, work_dir, crs, suffix, background):
    geometries, attributes, expected = labels_of(world, crs)
    world.image("images/a.tif", place=(0, 0))
    world.image("images/b.tif", place=(0, 32))
    write_polygons(world.folder / f"labels.{suffix}", geometries, attributes, crs)
    result = run(world, work_dir, masks=f"labels.{suffix}", class_field="kind", background=background)
    found = read_window(result.manifest["mask"][0])[0][0]
    np.testing.assert_array_equal(found, np.where(expected == 255, 0, expected) if background else expected)
    assert len(result.manifest) == (2 if background else 1)  # b holds no polygon


def test_vector_labels_of_each_image_by_name(world, work_dir):
    geometries, attributes, expected = labels_of(world, "EPSG:32632")
    world.image("images/a.tif", place=(0, 0))
    (world.folder / "masks").mkdir()
    write_polygons(world.folder / "masks/a.gpkg", geometries, attributes, "EPSG:32632")
    np.testing.assert_array_equal(only_mask(run(world, work_dir, class_field="kind")), expected)
    with pytest.raises(IngestionError, match=r"masks/a.gpkg: has no attribute 'class' \(found \['kind'\]\)"):
        run(world, work_dir)


def test_large_masks_are_converted_in_blocks(world, work_dir, monkeypatch):
    monkeypatch.setattr("s5.data.masks._BLOCK", 10)
    geometries, attributes, expected = labels_of(world, "EPSG:4326")
    world.image("images/a.tif", place=(0, 0))
    write_polygons(world.folder / "labels.gpkg", geometries, attributes, "EPSG:4326")
    np.testing.assert_array_equal(only_mask(run(world, work_dir, masks="labels.gpkg", class_field="kind")), expected)
    values = world.rng.integers(0, 3, (32, 32)).astype(np.int16)
    values[29, 31] = 77
    world.mask("masks/a.tif", values=values)
    with pytest.raises(IngestionError, match="value 77 at row 29, column 31"):
        run(world, work_dir)


def test_masks_are_made_once_and_anew_when_their_source_changes(world, work_dir):
    world.image("images/a.tif")
    values = world.mask("masks/a.tif", dtype="int16")
    first = run(world, work_dir).manifest["mask"][0]
    made = first, (work_dir / "masks").stat().st_mtime_ns
    import os
    from pathlib import Path

    written = Path(first).stat().st_mtime_ns
    assert run(world, work_dir).manifest["mask"][0] == made[0]
    assert Path(first).stat().st_mtime_ns == written
    values[0] = 2
    write_geotiff(world.folder / "masks/a.tif", values)
    os.utime(world.folder / "masks/a.tif", ns=(written + 10**9, written + 10**9))
    second = run(world, work_dir)
    assert second.manifest["mask"][0] != first
    np.testing.assert_array_equal(only_mask(second), values)


def test_each_split_may_have_its_own_coding(world, work_dir):
    for split in ("labeled", "noisy"):
        world.image(f"{split}/images/a.tif")
    clean = world.mask("labeled/masks/a.tif")
    world.mask("noisy/masks/a.tif", values=np.full((32, 32), 11, np.uint8))
    card = world.card(
        {"labeled": {"images": "labeled/images", "masks": "labeled/masks"},
         "noisy": {"images": "noisy/images", "masks": "noisy/masks", "legend": {11: "road"}}}
    )  # fmt: skip
    result = ingest(card, IngestionConfig(tile_size=32, val_share=0, test_share=0), seed=0, work_dir=work_dir)
    masks = {row.split: read_window(row.mask)[0][0] for row in result.manifest.itertuples()}
    np.testing.assert_array_equal(masks["labeled"], clean)
    assert (masks["noisy"] == 2).all()


def test_a_missing_mask_file_of_a_list_is_named(world, work_dir):
    world.image("a.tif")
    world.text("l.csv", "image,mask\na.tif,gone.tif\n")
    config = IngestionConfig(tile_size=32, val_share=0, test_share=0)
    with pytest.raises(IngestionError, match=r"gone\.tif: there is no such mask; correct the path"):
        ingest(world.card({"labeled": {"list": "l.csv"}}), config, seed=0, work_dir=work_dir)
    world.text("gone.tif", "no raster")
    with pytest.raises(IngestionError, match=r"1 unreadable.*gone\.tif: cannot be opened as a raster"):
        ingest(world.card({"labeled": {"list": "l.csv"}}), config, seed=0, work_dir=work_dir)
    (world.folder / "gone.tif").unlink()
    write_polygons(world.folder / "gone.gpkg", [shapely.box(0, 0, 1, 1)], {"class": ["road"]}, "EPSG:32632")
    world.text("l.csv", "image,mask\na.tif,gone.gpkg\n")
    with pytest.raises(IngestionError, match="the vector file has a CRS and the raster has none"):
        ingest(world.card({"labeled": {"list": "l.csv"}}), config, seed=0, work_dir=work_dir)


def test_masks_may_lie_in_the_folder_of_the_images_and_pair_across_subfolders(world, work_dir):
    for place in ("north", "south"):
        world.image(f"images/{place}/t1.tif")
        world.mask(f"images/truth/{place}/t1.tif")
    world.image("images/west/only.tif")
    world.mask("images/truth/elsewhere/only.png")
    result = run(world, work_dir, masks="images/truth")
    pairs = {row.tile_id: str(row.mask).rsplit("truth/", 1)[1] for row in result.manifest.itertuples()}
    assert pairs == {
        "images/north/t1": "north/t1.tif", "images/south/t1": "south/t1.tif", "images/west/only": "elsewhere/only.png",
    }  # fmt: skip
