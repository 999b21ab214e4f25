"""Archives in their exact layout become cards, lists, masks of class indices, and tiles as the papers cut them."""

from __future__ import annotations

import csv
import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from s5.data.card import load_card
from s5.data.importing import (
    ArchiveError,
    ImportConfig,
    Imported,
    UnknownMaskValueError,
    archive_names,
    describe_archive,
    fetch_archive,
    import_archive,
)
from s5.data.importing.cutting import windows_of
from s5.data.importing.description import Tiling, read_description
from s5.data.importing.layout import Pattern
from s5.data.ingest import IngestionConfig, ingest
from s5.data.protocol import PRESETS


def load_archives() -> ModuleType:
    spec = importlib.util.spec_from_file_location("archives", Path(__file__).with_name("archives.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


archives = load_archives()


def run(name: str, tmp_path: Path, **options: Any) -> Imported:
    config = ImportConfig(name=name, root=str(tmp_path / "archive"), **options)
    return import_archive(config, tmp_path / "archive", tmp_path / "out")


def rows_of(tmp_path: Path, split: str) -> list[dict[str, str]]:
    with (tmp_path / "out" / f"{split}.csv").open() as file:
        return list(csv.DictReader(file))


def pixels(tmp_path: Path, relative: str) -> np.ndarray:
    return np.asarray(Image.open(tmp_path / "out" / relative))


def shifted(values: np.ndarray, ignored: int = 0) -> np.ndarray:
    return np.where(values == ignored, 255, values - 1).astype(np.uint8)


@pytest.mark.parametrize("name", archive_names())
def test_every_description_is_read_and_its_protocol_is_known(name: str) -> None:
    archive = describe_archive(name)
    assert archive.protocol is None or archive.protocol in PRESETS
    for split in archive.splits:
        assert split.sources
        for source in split.sources:
            assert split.name in {"unlabeled", "submission"} or source.masks


def test_loveda_whole_images_classes_from_zero_and_its_test_images_apart(tmp_path: Path) -> None:
    masks = archives.loveda(tmp_path / "archive")
    done = run("loveda", tmp_path)
    card = load_card(done.card)
    assert card.labels.classes == ("background", "building", "road", "water", "barren", "forest", "agriculture")
    assert card.protocol == PRESETS["loveda"]
    assert set(card.splits) == {"labeled", "val"}
    rows = rows_of(tmp_path, "labeled")
    assert [row["tile_id"] for row in rows] == ["Rural_2", "Urban_1"]
    for row, scene in zip(rows, ("Rural/2", "Urban/1"), strict=True):
        image = (tmp_path / "out" / row["image"]).resolve()
        assert image == tmp_path / "archive" / "Train" / scene.split("/")[0] / "images_png" / f"{scene[-1]}.png"
        np.testing.assert_array_equal(pixels(tmp_path, row["mask"]), shifted(masks[f"Train/{scene}"]))
    assert done.submission is not None
    server = load_card(done.submission)
    assert set(server.splits) == {"unlabeled"} and server.protocol == PRESETS["loveda"]
    assert len(rows_of(tmp_path, "submission")) == 2
    assert "LoveDA, labeled: 2 images, published are 2,522" in done.report["splits"]["labeled"]["notes"]
    assert not done.report["complete"]


def test_an_imported_card_is_ingested(tmp_path: Path) -> None:
    archives.loveda(tmp_path / "archive")
    done = run("loveda", tmp_path)
    ingested = ingest(done.card, IngestionConfig(tile_size=12, test_share=0), seed=0, work_dir=tmp_path / "work")
    assert ingested.manifest["split"].tolist() == ["labeled", "labeled", "val", "val"]
    assert len(ingested.quarantine) == 0
    server = ingest(done.submission, IngestionConfig(tile_size=12), seed=0, work_dir=tmp_path / "work")
    assert server.manifest["split"].tolist() == ["unlabeled", "unlabeled"]


def expected_ispr(classes: np.ndarray) -> np.ndarray:
    return np.where(classes >= 5, 255, classes).astype(np.uint8)


def test_vaihingen_is_cut_and_clutter_is_ignored(tmp_path: Path) -> None:
    masks = archives.vaihingen(tmp_path / "archive")
    done = run("vaihingen", tmp_path, tile_size=16, overlap=8)
    rows = rows_of(tmp_path, "labeled")
    assert {row["group"] for row in rows} == {"area1", "area3"}
    assert len(rows) == 2 * 4 * 3  # rows 0, 8, 16, 24 and columns 0, 8, 14 of 40 x 30
    for row in rows:
        area, top, left = (int(v) for v in Path(row["image"]).stem.removeprefix("top_mosaic_09cm_area").split("_"))
        source = np.asarray(Image.open(tmp_path / "archive" / "top" / f"top_mosaic_09cm_area{area}.tif"))
        np.testing.assert_array_equal(pixels(tmp_path, row["image"]), source[top : top + 16, left : left + 16])
        truth = expected_ispr(masks[area])[top : top + 16, left : left + 16]
        np.testing.assert_array_equal(pixels(tmp_path, row["mask"]), truth)
    assert len(rows_of(tmp_path, "test")) == 3 * 2  # without overlap
    missing = done.report["splits"]["labeled"]["missing"]
    assert "area 5: has no image" in missing and "area 1: has no image" not in missing


def test_eroded_masks_are_taken_where_they_are_asked_for(tmp_path: Path) -> None:
    masks = archives.vaihingen(tmp_path / "archive")
    run("vaihingen", tmp_path, tile_size=0, eroded="test")
    (test,) = rows_of(tmp_path, "test")
    truth = expected_ispr(masks[2])
    truth[::5] = 255
    np.testing.assert_array_equal(pixels(tmp_path, test["mask"]), truth)
    train = {row["group"]: row for row in rows_of(tmp_path, "labeled")}
    np.testing.assert_array_equal(pixels(tmp_path, train["area1"]["mask"]), expected_ispr(masks[1]))


def test_potsdam_splits_and_masks(tmp_path: Path) -> None:
    masks = archives.potsdam(tmp_path / "archive")
    run("potsdam", tmp_path, tile_size=0)
    for split, tile in (("labeled", "2_10"), ("test", "2_13")):
        (row,) = rows_of(tmp_path, split)
        assert row["group"] == tile
        np.testing.assert_array_equal(pixels(tmp_path, row["mask"]), expected_ispr(masks[tile]))


def test_openearthmap_takes_what_its_lists_name(tmp_path: Path) -> None:
    masks = archives.openearthmap(tmp_path / "archive")
    done = run("openearthmap", tmp_path)
    rows = rows_of(tmp_path, "labeled")
    assert [row["group"] for row in rows] == ["aachen", "dar_es_salaam"]
    np.testing.assert_array_equal(pixels(tmp_path, rows[1]["mask"]), masks["dar_es_salaam_12.tif"])
    assert [Path(row["image"]).name for row in rows_of(tmp_path, "val")] == ["aachen_2.tif"]
    assert [Path(row["image"]).name for row in rows_of(tmp_path, "submission")] == ["aachen_3.tif"]
    (tmp_path / "archive" / "aachen" / "images" / "aachen_1.tif").unlink()
    again = import_archive(ImportConfig(name="openearthmap"), tmp_path / "archive", tmp_path / "again").report[
        "splits"
    ]["labeled"]
    assert again["missing"] == ["aachen_1.tif: is listed in train.txt and not there"]
    assert done.report["splits"]["labeled"]["num_missing"] == 0


def test_deepglobe_reads_colours_by_its_own_threshold(tmp_path: Path) -> None:
    classes = archives.deepglobe(tmp_path / "archive")
    run("deepglobe", tmp_path, tile_size=0)
    (row,) = rows_of(tmp_path, "labeled")
    np.testing.assert_array_equal(pixels(tmp_path, row["mask"]), np.where(classes == 6, 255, classes))
    assert [Path(row["image"]).name for row in rows_of(tmp_path, "unlabeled")] == ["10_sat.jpg", "20_sat.jpg"]


def test_isaid_pieces_without_objects_are_left_out_of_training_only(tmp_path: Path) -> None:
    classes = archives.isaid(tmp_path / "archive")
    run("isaid", tmp_path)
    rows = rows_of(tmp_path, "labeled")
    # 1400 x 1100: blocks of 1024 px begin at rows 0 and 376 and columns 0 and 76; those of row 376 hold no object.
    places = [tuple(int(v) for v in Path(row["image"]).stem.split("_")[1:]) for row in rows]
    assert places == [(0, 0), (0, 512), (512, 0), (512, 512), (0, 76), (0, 588), (512, 76), (512, 588)]
    for row, (top, left) in zip(rows, places, strict=True):
        truth = classes[top : top + 512, left : left + 512]
        np.testing.assert_array_equal(pixels(tmp_path, row["mask"]), truth)
    val = rows_of(tmp_path, "val")
    assert len(val) == 2  # of background alone, and kept
    assert pixels(tmp_path, val[0]["image"]).shape == (512, 500, 3)  # grey became RGB
    assert [Path(row["image"]).name for row in rows_of(tmp_path, "submission")] == ["P0006.png"]


@pytest.mark.parametrize("layout", ["original", "challenge"])
def test_gid15_in_both_its_layouts(tmp_path: Path, layout: str) -> None:
    classes = getattr(archives, f"gid15_{layout}")(tmp_path / "archive")
    run("gid15", tmp_path, tile_size=0)
    (row,) = rows_of(tmp_path, "labeled")
    np.testing.assert_array_equal(pixels(tmp_path, row["mask"]), shifted(classes))


def test_samrs_masks_are_noisy_and_taken_where_they_lie(tmp_path: Path) -> None:
    values = archives.samrs_sota(tmp_path / "archive")
    done = run("samrs_sota", tmp_path)
    assert set(load_card(done.card).splits) == {"noisy", "unlabeled"}
    (row,) = rows_of(tmp_path, "noisy")
    assert row["group"] == "P0000"
    assert (tmp_path / "out" / row["mask"]).resolve().is_relative_to(tmp_path / "archive")
    np.testing.assert_array_equal(pixels(tmp_path, row["mask"]), values)


def test_millionaid_joins_the_labels_of_another_card(tmp_path: Path) -> None:
    archives.loveda(tmp_path / "archive")
    labels = run("loveda", tmp_path).card
    archives.millionaid(tmp_path / "million")
    done = import_archive(ImportConfig(name="millionaid"), tmp_path / "million", tmp_path / "pool", labels_from=labels)
    card = load_card(done.card)
    assert card.name == "loveda_millionaid" and card.labels.num_classes == 7
    assert set(card.splits) == {"labeled", "val", "unlabeled"}
    assert done.report["splits"]["unlabeled"]["images"] == 3
    ingested = ingest(done.card, IngestionConfig(tile_size=12, test_share=0), seed=0, work_dir=tmp_path / "work")
    assert ingested.manifest["split"].value_counts().to_dict() == {"unlabeled": 3, "labeled": 2, "val": 2}


def test_ssl4eo_bands_are_stacked_on_the_finest_grid(tmp_path: Path) -> None:
    from s5.geo.raster import describe, read_window

    given, labels = archives.ssl4eo_nol(tmp_path / "archive")
    run("ssl4eo_s12_nol", tmp_path)
    (row,) = rows_of(tmp_path, "noisy")  # the season without labels belongs to no split
    image, _ = read_window(tmp_path / "out" / row["image"])
    info = describe(tmp_path / "out" / row["image"])
    assert image.shape == (13, 264, 264) and info.crs == "EPSG:32643" and info.transform[0] == 10.0
    np.testing.assert_array_equal(image[1], given["B2"])  # 10 m already
    blocks = image[0].reshape(44, 6, 44, 6).mean(axis=(1, 3))  # of 60 m: its place is kept
    assert np.corrcoef(blocks.ravel(), given["B1"].ravel())[0, 1] > 0.95
    mask, _ = read_window(tmp_path / "out" / row["mask"])
    np.testing.assert_array_equal(mask[0], labels)


def test_a_place_that_lacks_a_band_is_left_out_and_named(tmp_path: Path) -> None:
    archives.ssl4eo_nol(tmp_path / "archive")
    for path in (tmp_path / "archive" / "s2c").glob("*/20200604*/B2.tif"):
        path.unlink()
    (tmp_path / "archive/dw_noisy_labels/0000007/20200604T054639_20200604T054831_T43RCP").mkdir()
    done = next((tmp_path / "archive" / "dw_noisy_labels").glob("*/20200913*/label.tif"))
    (done.parents[1] / "20200604T054639_20200604T054831_T43RCP" / "label.tif").write_bytes(done.read_bytes())
    report = run("ssl4eo_s12_nol", tmp_path).report["splits"]["noisy"]
    assert report["images"] == 1 and report["num_missing"] == 1
    assert report["missing"][0].endswith("T43RCP/B1.tif: lacks B2.tif beside it")


def test_ssl4eo_expert_labels(tmp_path: Path) -> None:
    values = archives.ssl4eo_dw(tmp_path / "archive")
    run("ssl4eo_s12_dw", tmp_path)
    truth = np.where((values == 0) | (values == 10), 255, values.astype(int) - 1)
    for split in ("labeled", "test"):
        (row,) = rows_of(tmp_path, split)
        np.testing.assert_array_equal(pixels(tmp_path, row["mask"]), truth)


def test_an_unknown_colour_names_file_colour_and_pixel(tmp_path: Path) -> None:
    archives.vaihingen(tmp_path / "archive")
    path = tmp_path / "archive/ISPRS_semantic_labeling_Vaihingen_ground_truth_COMPLETE/top_mosaic_09cm_area1.tif"
    mask = np.array(Image.open(path))
    mask[21, 17] = (252, 255, 0)  # nearly a car
    Image.fromarray(mask).save(path)
    message = r"area1\.tif: holds colour \[252, 255, 0\] at row 21, column 17, which is not in the palette"
    with pytest.raises(UnknownMaskValueError, match=message):
        run("vaihingen", tmp_path, tile_size=16)
    done = import_archive(
        ImportConfig(name="vaihingen", tile_size=0, tolerance=5), tmp_path / "archive", tmp_path / "b"
    )
    with (done.card.parent / "labeled.csv").open() as file:
        row = next(row for row in csv.DictReader(file) if row["group"] == "area1")
    assert np.asarray(Image.open(done.card.parent / row["mask"]))[21, 17] == 4


def test_an_unknown_value_names_file_value_and_pixel(tmp_path: Path) -> None:
    archives.loveda(tmp_path / "archive")
    path = tmp_path / "archive/Train/Rural/masks_png/2.png"
    mask = np.array(Image.open(path))
    mask[3, 4] = 9
    Image.fromarray(mask).save(path)
    with pytest.raises(UnknownMaskValueError, match=r"2\.png: holds value 9 at row 3, column 4, but LoveDA has"):
        run("loveda", tmp_path)


def test_a_stopped_import_goes_on_and_other_settings_are_refused(tmp_path: Path) -> None:
    archives.vaihingen(tmp_path / "archive")
    run("vaihingen", tmp_path, tile_size=16)
    tile = tmp_path / "out" / rows_of(tmp_path, "labeled")[0]["image"]
    before = tile.stat().st_mtime_ns
    (tmp_path / "out" / rows_of(tmp_path, "test")[0]["mask"]).unlink()
    (tmp_path / "out" / "dataset.yml").unlink()
    run("vaihingen", tmp_path, tile_size=16)
    assert tile.stat().st_mtime_ns == before
    assert (tmp_path / "out" / rows_of(tmp_path, "test")[0]["mask"]).is_file()
    assert (tmp_path / "out" / "dataset.yml").is_file()
    with pytest.raises(ArchiveError, match="holds an import with other settings"):
        run("vaihingen", tmp_path, tile_size=20)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(ArchiveError, match="is not empty and no import"):
        import_archive(ImportConfig(name="vaihingen"), tmp_path / "archive", tmp_path / "full")


def test_a_wrong_folder_says_what_was_expected(tmp_path: Path) -> None:
    (tmp_path / "archive" / "LoveDA").mkdir(parents=True)
    with pytest.raises(ArchiveError, match=r"expected Train/<scene>/images_png/<id>\.png, found \['LoveDA'\]"):
        run("loveda", tmp_path)


def test_images_without_masks_say_so(tmp_path: Path) -> None:
    archives.potsdam(tmp_path / "archive", tiles=("2_10",))
    next((tmp_path / "archive" / "5_Labels_all").iterdir()).unlink()
    with pytest.raises(ArchiveError, match=r"of 1 images, such as .*2_10_RGB\.tif, none has a mask; expected 5_Labels"):
        run("potsdam", tmp_path, tile_size=0)


# Heights and widths of the mosaics of ISPRS Vaihingen.
VAIHINGEN = {
    1: (2569, 1919), 2: (2767, 2428), 3: (3007, 2006), 4: (2557, 1887), 5: (2557, 1887), 6: (2557, 1887),
    7: (2557, 1887), 8: (2557, 1887), 10: (2557, 1887), 11: (2566, 1893), 12: (2575, 1922), 13: (2558, 2818),
    14: (2565, 1919), 15: (2565, 1919), 16: (2565, 1919), 17: (1281, 2336), 20: (2315, 1866), 21: (2546, 1903),
    22: (2546, 1903), 23: (2546, 1903), 24: (2546, 1903), 26: (1783, 2995), 27: (3313, 1917), 28: (2567, 1917),
    29: (2563, 1917), 30: (2563, 1917), 31: (2555, 1980), 32: (2555, 1980), 33: (2555, 1581), 34: (2555, 1388),
    35: (1884, 2805), 37: (1995, 1996), 38: (2550, 3816),
}  # fmt: skip


@pytest.mark.parametrize("name", ["vaihingen", "potsdam", "deepglobe"])
def test_the_papers_tiling_gives_the_published_numbers_of_tiles(name: str) -> None:
    """S5's lists have 1,324 and 398 tiles of Vaihingen and 12,696 and 2,016 of Potsdam."""
    for split in describe_archive(name).splits:
        assert split.tiling is not None
        if name == "vaihingen":
            sizes = [VAIHINGEN[int(area)] for area in dict(split.only)["area"]]
        else:
            sizes = [(6000, 6000) if name == "potsdam" else (2448, 2448)] * split.images[0]
        tiles = {size: windows_of(*size, split.tiling) for size in set(sizes)}
        assert len(sizes) == split.images[0]
        assert sum(len(tiles[size]) for size in sizes) == split.tiles
        assert {(window.height, window.width) for of in tiles.values() for window in of} == {(512, 512)}


def test_isaid_cuts_blocks_as_the_papers_list_numbers_them() -> None:
    """P0000 has 5,502 x 3,875 px, and S5's list numbers its pieces 0000 to 0033 of 0034."""
    from s5.geo.windows import tile_windows

    tiling = describe_archive("isaid").splits[0].tiling
    assert tiling is not None and tiling.block is not None
    assert len(tile_windows(5502, 3875, size=tiling.block, stride=tiling.block_stride)) == 35
    assert len(windows_of(1024, 1024, tiling)) == 4


def test_patterns() -> None:
    pattern = Pattern("{region}/images/{region}_{number}.tif")
    assert pattern.fill({"region": "a_b", "number": "3"}) == "a_b/images/a_b_3.tif"
    assert pattern.shown == "<region>/images/<region>_<number>.tif"


def test_a_tolerance_that_mixes_two_colours_up_is_refused() -> None:
    given = {"title": "t", "home": "h", "classes": ["a", "b"], "bands": ["r"], "splits": {}, "tolerance": 5,
             "palette": {"a": [0, 0, 0], "b": [10, 0, 0]}}  # fmt: skip
    with pytest.raises(ValueError, match=r"are 10 apart, and a tolerance of 5 does not tell them .* at most 4"):
        read_description("x", given)
    with pytest.raises(ValueError, match="colour: unknown key"):
        read_description("x", {"colour": 1})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "lovedaa"}, "name: expected one of deepglobe, gid15"),
        ({"name": "loveda", "overlap": 4}, "overlap: 4 goes with tile_size"),
        ({"name": "loveda", "tile_size": 4, "overlap": 4}, "overlap: expected less than tile_size"),
        ({"name": "loveda", "eroded": "both"}, "eroded: expected none, test or all"),
        ({"name": "loveda", "tile_size": -1}, "tile_size: expected a whole number of at least 0"),
    ],
)
def test_wrong_settings(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImportConfig(**options)
    with pytest.raises(ValueError, match="size >= 1 and stride"):
        Tiling(4, 5)


def test_download_needs_torchgeo_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchgeo", None)
    monkeypatch.setitem(sys.modules, "torchgeo.datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r"s5\[download\]"):
        fetch_archive(describe_archive("loveda"), tmp_path)
    with pytest.raises(ValueError, match="torchgeo does not know SAMRS SOTA"):
        fetch_archive(describe_archive("samrs_sota"), tmp_path)


def test_download_asks_torchgeo_for_every_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    fake = SimpleNamespace(LoveDA=lambda **options: asked.append(options))
    monkeypatch.setitem(sys.modules, "torchgeo", SimpleNamespace(datasets=fake))
    monkeypatch.setitem(sys.modules, "torchgeo.datasets", fake)
    fetch_archive(describe_archive("loveda"), tmp_path)
    assert [options["split"] for options in asked] == ["train", "val", "test"]
    assert all(options["download"] and options["checksum"] and options["root"] == str(tmp_path) for options in asked)


def test_the_card_is_plain_yaml(tmp_path: Path) -> None:
    archives.potsdam(tmp_path / "archive")
    done = run("potsdam", tmp_path, tile_size=20)
    values = yaml.safe_load(done.card.read_text())
    assert values["splits"] == {"labeled": {"list": "labeled.csv"}, "test": {"list": "test.csv"}}
    assert values["gsd"] == 0.05 and values["protocol"] == "potsdam"
