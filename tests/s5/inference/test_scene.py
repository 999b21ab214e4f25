"""Whole scenes through a small network, against a single pass over all of the scene."""

from __future__ import annotations

import json
import resource
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pytest
import rasterio
import rasterio.features
import torch
from torch import nn

from s5.data.transforms import Normalizer
from s5.engine import ComputeConfig, resolve_compute
from s5.geo.cog import Layer, Strip, write_mosaic
from s5.geo.raster import describe, read_window, write_geotiff
from s5.inference import BlendGrid, Predictor, SceneConfig, SceneModel, ScenePictures, map_scene, map_strips
from s5.inference import strips as strips_module
from s5.types import BandStatistics, Window

CPU = ComputeConfig(device="cpu", precision="fp32", threads=1)
# the network sees 2 pixels to each side
SMALL = SceneConfig(window=48, overlap=16, margin=3, batch_size=3)
UTM = {"crs": "EPSG:32632", "transform": (0.5, 0.0, 500_000.0, 0.0, -0.5, 5_000_000.0)}
ROTATED = {"crs": "EPSG:32632", "transform": (0.5, 0.1, 500_000.0, 0.2, -0.5, 5_000_000.0)}
DEGREES = {"crs": "EPSG:4326", "transform": (1e-4, 0.0, 11.0, 0.0, -1e-4, 48.0)}
NOWHERE: dict[str, Any] = {}


def single_pass(image: Path, model: SceneModel) -> tuple[np.ndarray, np.ndarray]:
    """Class probabilities [K, H, W] of the whole scene at once, and its valid pixels."""
    pixels, valid = read_window(image)
    pixels[:, ~valid] = 0
    with torch.inference_mode():
        logits = model.network(Normalizer(model.statistics)(torch.from_numpy(pixels[None])))
    return logits[0].softmax(0).numpy(), valid


@pytest.mark.parametrize("grid", [UTM, ROTATED, DEGREES, NOWHERE], ids=["utm", "rotated", "degrees", "nowhere"])
@pytest.mark.parametrize(("height", "width"), [(131, 97), (30, 200), (20, 17)])
def test_the_map_is_that_of_a_single_pass(
    write_scene: Callable[..., Path], scene_model: SceneModel, tmp_path: Path, height: int, width: int, grid: Any
) -> None:
    image = write_scene(height, width, **grid)
    config = replace(SMALL, probabilities=True, entropy=True, polygons=False)
    found = map_scene(image, tmp_path / "out", scene_model, config, CPU)
    expected, valid = single_pass(image, scene_model)
    with rasterio.open(found.folder / "classes.tif") as classes:
        best = np.where(valid, expected.argmax(0), 255)
        np.testing.assert_array_equal(classes.read(1), best)
        assert classes.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert classes.nodata == 255
        assert classes.colormap(1)[1] == (0x44, 0x55, 0x66, 255)
        assert json.loads(classes.tags()["CLASSES"]) == list(scene_model.classes)
        scene, own = describe(image), describe(found.folder / "classes.tif")
        assert (own.crs, own.transform, own.height, own.width) == (scene.crs, scene.transform, height, width)
    with rasterio.open(found.folder / "probabilities.tif") as probabilities:
        stored = probabilities.read().astype(np.float64)
        assert np.abs(stored[:, valid] * probabilities.scales[0] - expected[:, valid]).max() <= 0.0021
        assert (stored[:, ~valid] == probabilities.nodata).all()
        assert probabilities.descriptions == tuple(scene_model.classes)
    with rasterio.open(found.folder / "entropy.tif") as entropy:
        exact = -(expected * np.log(expected)).sum(0) / np.log(4)
        assert np.abs(entropy.read(1)[valid] * entropy.scales[0] - exact[valid]).max() <= 0.0021


def test_a_model_that_gives_its_input_gives_the_scene_back(write_scene: Callable[..., Path], tmp_path: Path) -> None:
    image = write_scene(75, 110, hole=False)
    grid = BlendGrid(75, 110, 32, 8, 2)
    config = replace(SMALL, probabilities=True)
    strips, _ = map_strips(
        image,
        tmp_path,
        grid,
        lambda x: x.float() / 255,
        bands=3,
        classes=3,
        config=config,
        compute=resolve_compute(CPU),
    )
    found = np.concatenate([read_window(strip.path)[0][2:] for strip in strips], axis=1)
    np.testing.assert_array_equal(found, np.round(read_window(image)[0] / np.float32(255) * 250))


def test_overviews_halve_down_to_a_block(
    write_scene: Callable[..., Path], scene_model: SceneModel, tmp_path: Path
) -> None:
    image = write_scene(40, 1100, **UTM)
    found = map_scene(image, tmp_path / "out", scene_model, replace(SMALL, polygons=False), CPU)
    with rasterio.open(found.folder / "classes.tif") as classes:
        assert classes.overviews(1) == [2, 4]
        assert classes.block_shapes == [(512, 512)]
    cogeo = pytest.importorskip("rio_cogeo")
    assert cogeo.cog_validate(found.folder / "classes.tif", strict=True) == (True, [], [])  # rio cogeo validate


def test_polygons_burnt_again_are_the_map(
    write_scene: Callable[..., Path], scene_model: SceneModel, tmp_path: Path
) -> None:
    image = write_scene(90, 120, **ROTATED)
    found = map_scene(image, tmp_path / "out", scene_model, replace(SMALL, simplify=0.0), CPU)
    polygons = geopandas.read_file(found.folder / "polygons.gpkg")
    with rasterio.open(found.folder / "classes.tif") as file:
        labels = file.read(1)
        burnt = rasterio.features.rasterize(
            zip(polygons.geometry, polygons["value"], strict=True), labels.shape, fill=255, transform=file.transform
        )
    np.testing.assert_array_equal(burnt, labels)
    assert polygons.crs == "EPSG:32632"
    assert list(polygons["class"]) == [scene_model.classes[value] for value in polygons["value"]]
    areas = pd.read_csv(found.folder / "areas.csv", index_col="class")
    np.testing.assert_allclose(
        polygons.groupby("class")["area_m2"].sum(), areas.loc[sorted(set(polygons["class"])), "area_m2"], rtol=1e-6
    )
    # mean confidence of all pixels, from polygons and from the single pass
    expected, valid = single_pass(image, scene_model)
    pixels = polygons.area / abs(0.5 * -0.5 - 0.1 * 0.2)
    assert np.average(polygons["confidence"], weights=pixels) == pytest.approx(expected.max(0)[valid].mean(), abs=1e-3)


def test_polygons_as_geoparquet_are_those_of_the_geopackage(
    write_scene: Callable[..., Path], scene_model: SceneModel, tmp_path: Path
) -> None:
    image = write_scene(90, 120, **UTM)
    package = map_scene(image, tmp_path / "a", scene_model, SMALL, CPU)
    parquet = map_scene(image, tmp_path / "a", scene_model, replace(SMALL, polygon_format="parquet"), CPU)
    assert "polygons.parquet" in parquet.files
    assert not (package.folder / "polygons.gpkg").exists()  # of the map that this one took the place of
    package = map_scene(image, tmp_path / "b", scene_model, SMALL, CPU)
    found = geopandas.read_parquet(parquet.folder / "polygons.parquet")
    expected = geopandas.read_file(package.folder / "polygons.gpkg")
    assert found.crs == expected.crs == "EPSG:32632"
    assert found.geometry.equals(expected.geometry)
    for name in ("class", "value", "area_m2", "confidence"):
        assert list(found[name]) == list(expected[name])


@pytest.mark.parametrize("has_data", [True, False])
def test_one_class_alone_and_nodata_alone(scene_model: SceneModel, tmp_path: Path, has_data: bool) -> None:
    write_geotiff(tmp_path / "scene.tif", np.full((3, 30, 40), 100 * has_data, np.uint8), nodata=0, **UTM)
    network = nn.Conv2d(3, 4, 1)
    network.weight.data[:], network.bias.data[:] = 0, torch.tensor([0.0, 0, 9, 0])
    found = map_scene(tmp_path / "scene.tif", tmp_path / "out", replace(scene_model, network=network), SMALL, CPU)
    polygons = geopandas.read_file(found.folder / "polygons.gpkg")
    assert list(polygons["class"]) == ["water"] * has_data
    assert list(polygons["value"]) == [2] * has_data
    assert (read_window(found.folder / "classes.tif")[0] == (2 if has_data else 255)).all()
    assert found.areas[-2]["pixels"] == 1200 * (not has_data)


def test_a_scene_without_crs_is_in_pixels_and_says_so(
    write_scene: Callable[..., Path], scene_model: SceneModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = map_scene(write_scene(50, 60), tmp_path / "out", scene_model, SMALL, CPU)
    assert found.notes == ("scene.tif has no CRS: coordinates and areas are in pixels",)
    assert found.notes[0] in caplog.text
    polygons = geopandas.read_file(found.folder / "polygons.gpkg")
    assert polygons.crs is None or "Undefined" in polygons.crs.name
    config = replace(SMALL, polygon_format="parquet")
    again = map_scene(tmp_path / "scene.tif", tmp_path / "parquet", scene_model, config, CPU)
    assert geopandas.read_parquet(again.folder / "polygons.parquet").crs is None
    assert polygons["area_pixels"].sum() == pytest.approx(50 * 60 - 8 * 15 - 0, abs=30)
    with pytest.raises(ValueError, match=r"has no CRS, so its ground sampling distance is not known.*scene\.gsd"):
        map_scene(write_scene(50, 60), tmp_path / "out", scene_model, replace(SMALL, gsd=1.0), CPU)


def test_a_damaged_block_is_nodata_and_named(
    write_scene: Callable[..., Path], scene_model: SceneModel, tmp_path: Path
) -> None:
    image = write_scene(600, 520, hole=False, **UTM)
    whole = map_scene(image, tmp_path / "whole", scene_model, replace(SMALL, window=200, polygons=False), CPU)
    assert whole.damaged == ()
    with rasterio.open(image) as file:
        offset = int(file.get_tag_item("BLOCK_OFFSET_1_1", "TIFF", bidx=1))
    content = bytearray(image.read_bytes())
    content[offset : offset + 4000] = bytes(4000)
    image.write_bytes(content)
    found = map_scene(image, tmp_path / "out", scene_model, replace(SMALL, window=200, polygons=False), CPU)
    assert found.damaged == (Window(256, 256, 256, 256),)
    assert "1 damaged blocks of scene.tif could not be read and are nodata, the first at row 256" in found.notes[0]
    labels, before = (read_window(each.folder / "classes.tif")[0][0] for each in (found, whole))
    lost = np.zeros(labels.shape, bool)
    lost[256:512, 256:512] = True
    assert (labels[lost] == 255).all()
    seen = lost.copy()  # beside the block the network sees zeros
    seen[250:518, 250:] = True
    np.testing.assert_array_equal(labels[~seen], before[~seen])
    assert (labels[~lost] != 255).all()


def test_a_killed_run_goes_on_with_the_strips_that_are_missing(
    write_scene: Callable[..., Path], scene_model: SceneModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = write_scene(200, 90, **UTM)
    config = replace(SMALL, polygons=False, entropy=True)
    whole = map_scene(image, tmp_path / "whole", scene_model, config, CPU)
    write, written = strips_module._write, []

    def killed(path: Path, pixels: np.ndarray) -> None:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(path.name)
        write(path, pixels)

    monkeypatch.setattr(strips_module, "_write", killed)
    with pytest.raises(KeyboardInterrupt):
        map_scene(image, tmp_path / "out", scene_model, config, CPU)
    (working,) = (tmp_path / "out").iterdir()  # nothing under a final name
    (working / "strip_00001.tif").unlink()

    def counting(path: Path, pixels: np.ndarray) -> None:
        written.append(path.name)
        write(path, pixels)

    written.clear()
    monkeypatch.setattr(strips_module, "_write", counting)
    found = map_scene(image, tmp_path / "out", scene_model, config, CPU)
    count = len(BlendGrid(200, 90, 48, 16, 3).rows)
    assert written == [f"strip_{number:05d}.tif" for number in (1, *range(3, count))]
    for name in ("classes.tif", "entropy.tif", "areas.csv"):
        assert (found.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    assert not list(found.folder.glob(".*"))
    written.clear()
    assert map_scene(image, tmp_path / "out", scene_model, config, CPU) == found
    assert written == []  # is there already
    changed = map_scene(image, tmp_path / "out", replace(scene_model, identity="other"), SMALL, CPU)
    assert "entropy.tif" not in changed.files
    assert not (tmp_path / "out" / "entropy.tif").exists()


def test_a_full_disk_leaves_nothing_under_a_final_name(
    write_scene: Callable[..., Path], scene_model: SceneModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = write_scene(60, 60)

    def full(*_: Any, **__: Any) -> None:
        raise OSError("classes.tif: could not be written; is the disk full?")

    monkeypatch.setattr("s5.geo.cog.write_cog", full)
    with pytest.raises(OSError, match="is the disk full"):
        map_scene(image, tmp_path / "out", scene_model, SMALL, CPU)
    assert [path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")] == []


@pytest.mark.parametrize("most", [1000, 20_000, 110_000])  # what breaks: a strip, the page or a raster, the polygons
def test_files_that_the_disk_does_not_hold_leave_nothing_under_a_final_name(
    write_scene: Callable[..., Path], scene_model: SceneModel, tmp_path: Path, most: int
) -> None:
    image = write_scene(200, 200, **UTM)

    def draw(_: ScenePictures, folder: Path) -> list[str]:
        (folder / "index.html").write_bytes(bytes(30_000))
        return ["index.html"]

    whole = map_scene(image, tmp_path / "whole", scene_model, SMALL, CPU, draw=draw)
    assert max((whole.folder / name).stat().st_size for name in whole.files) > 110_000
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        with pytest.raises(OSError, match=r"disk full|File too large"):
            map_scene(image, tmp_path / "out", scene_model, SMALL, CPU, draw=draw)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")] == []
    again = map_scene(image, tmp_path / "out", scene_model, SMALL, CPU, draw=draw)  # once there is room
    for name in again.files:
        assert (again.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    assert not list(again.folder.glob(".*"))


def test_a_target_that_cannot_be_written_is_named(
    write_scene: Callable[..., Path], scene_model: SceneModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = write_scene(60, 60)
    (tmp_path / "file").write_text("here already", encoding="utf-8")
    with pytest.raises(OSError, match=r"file/scene: cannot be written \(Not a directory\)"):
        map_scene(image, tmp_path / "file" / "scene", scene_model, SMALL, CPU)

    def read_only(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")  # root may write everywhere

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(OSError, match=r"out: cannot be written \(Permission denied\)"):
        map_scene(image, tmp_path / "out", scene_model, SMALL, CPU)


@pytest.mark.parametrize(("bands", "dtype", "high"), [(1, "uint8", 255), (2, "uint16", 10_000), (5, "float32", 1.0)])
def test_scenes_of_any_number_of_bands_and_dtype(
    scene_model: SceneModel, tmp_path: Path, bands: int, dtype: str, high: float
) -> None:
    rng = np.random.default_rng(bands)
    pixels = (rng.uniform(0.1, 1, (bands, 70, 90)) * high).astype(dtype)
    nodata = -1.0 if dtype == "float32" else 0
    pixels[:, 20:30, 40:70] = nodata
    write_geotiff(tmp_path / "scene.tif", pixels, nodata=nodata, **UTM)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Conv2d(bands, 4, 3, padding=1).eval()
    many = BandStatistics(tuple("abcde"[:bands]), (0,) * bands, (high,) * bands, (0.5,) * bands, (0.2,) * bands)
    model = replace(scene_model, network=network, statistics=many)
    found = map_scene(tmp_path / "scene.tif", tmp_path / "out", model, replace(SMALL, polygons=False), CPU)
    expected, valid = single_pass(tmp_path / "scene.tif", model)
    assert valid.sum() == 70 * 90 - 300
    labels = read_window(found.folder / "classes.tif")[0][0]
    np.testing.assert_array_equal(labels, np.where(valid, expected.argmax(0), 255))


def test_a_path_of_gdal_is_left_as_it_is(
    write_scene: Callable[..., Path], scene_model: SceneModel, tmp_path: Path
) -> None:
    image = write_scene(40, 50, **UTM)
    with zipfile.ZipFile(tmp_path / "scenes.zip", "w") as packed:
        packed.write(image, "in/scene.tif")
    direct = map_scene(image, tmp_path / "a", scene_model, replace(SMALL, polygons=False), CPU)
    inside = f"/vsizip/{tmp_path}//scenes.zip/in/scene.tif"
    found = map_scene(inside, tmp_path / "b", scene_model, replace(SMALL, polygons=False), CPU)
    assert found.image == inside
    assert (found.folder / "classes.tif").read_bytes() == (direct.folder / "classes.tif").read_bytes()


def test_a_mosaic_of_files_is_one_scene(
    write_scene: Callable[..., Path], scene_model: SceneModel, tmp_path: Path
) -> None:
    image = write_scene(100, 50, hole=False, **UTM)
    pixels, config = read_window(image)[0], replace(SMALL, polygons=False)
    parts = [Strip(tmp_path / f"part_{row}.tif", row, height) for row, height in ((0, 37), (37, 63))]
    for part in parts:
        write_geotiff(part.path, pixels[:, part.row : part.row + part.height])
    write_mosaic(tmp_path / "scene.vrt", replace(describe(image), nodata=None), parts, Layer((1, 2, 3)))
    found = map_scene(tmp_path / "scene.vrt", tmp_path / "a", scene_model, config, CPU)
    direct = map_scene(image, tmp_path / "b", scene_model, config, CPU)
    assert (found.folder / "classes.tif").read_bytes() == (direct.folder / "classes.tif").read_bytes()


def test_another_number_of_bands_is_refused(
    write_scene: Callable[..., Path], scene_model: SceneModel, tmp_path: Path
) -> None:
    image = write_scene(60, 60)
    statistics = replace(scene_model.statistics, bands=("a",), low=(0,), high=(1,), mean=(0,), std=(1,))
    with pytest.raises(ValueError, match=r"scene.tif: has 3 bands, the model takes 1"):
        map_scene(image, tmp_path / "out", replace(scene_model, statistics=statistics), SMALL, CPU)


def test_zones_have_their_own_areas(write_scene: Callable[..., Path], scene_model: SceneModel, tmp_path: Path) -> None:
    import shapely

    image = write_scene(60, 80, **UTM)
    halves = [shapely.box(500_000, 4_999_970, 500_020, 5_000_000), shapely.box(500_020, 4_999_970, 500_040, 5_000_000)]
    frame = geopandas.GeoDataFrame({"name": ["west", "east"]}, geometry=halves, crs="EPSG:32632").to_crs("EPSG:4326")
    frame.to_parquet(tmp_path / "zones.parquet")
    config = replace(SMALL, polygons=False)
    found = map_scene(image, tmp_path / "out", scene_model, config, CPU, zones=tmp_path / "zones.parquet")
    labels = read_window(found.folder / "classes.tif")[0][0]
    table = pd.read_csv(found.folder / "zone_areas.csv").set_index(["zone", "class"])
    for name, half in (("west", labels[:, :40]), ("east", labels[:, 40:])):
        for value, label in enumerate(scene_model.classes):
            assert table.loc[(name, label), "pixels"] == (half == value).sum()
        assert table.loc[(name, "nodata"), "pixels"] == (half == 255).sum()


def test_views_of_test_time_augmentation_are_averaged(network: nn.Module, scene_model: SceneModel) -> None:
    images = torch.randint(0, 255, (2, 3, 12, 20), dtype=torch.uint8)
    normalized = Normalizer(scene_model.statistics)(images)
    with torch.inference_mode():
        for tta, turns in (("flips", (0, 2)), ("dihedral", (0, 1, 2, 3))):
            views = []
            for mirrored in (False, True):
                for k in turns:
                    seen = torch.rot90(normalized.flip(3) if mirrored else normalized, k, (2, 3))
                    back = torch.rot90(network(seen).softmax(1), -k, (2, 3))
                    views.append(back.flip(3) if mirrored else back)
            predict = Predictor(network, scene_model.statistics, device=torch.device("cpu"), tta=tta)  # type: ignore[arg-type]
            torch.testing.assert_close(predict(images), torch.stack(views).mean(0))


def test_a_finer_scene_is_resampled_for_the_network(
    write_scene: Callable[..., Path], scene_model: SceneModel, tmp_path: Path
) -> None:
    """A scene of twice the pixels and half the ground sampling distance gives nearly the coarse map, doubled."""
    coarse = write_scene(96, 128, "coarse", hole=False, **UTM)
    pixels = np.kron(read_window(coarse)[0], np.ones((1, 2, 2), np.uint8))
    write_geotiff(tmp_path / "fine.tif", pixels, crs="EPSG:32632", transform=(0.25, 0, 500_000, 0, -0.25, 5_000_000))
    config = replace(SMALL, polygons=False, gsd=0.5)
    maps = [
        read_window(map_scene(path, tmp_path / path.stem, scene_model, config, CPU).folder / "classes.tif")[0][0]
        for path in (coarse, tmp_path / "fine.tif")
    ]
    with pytest.raises(ValueError, match=r"coarse\.tif: has 0\.5 m a pixel, scene\.gsd is 10 m"):
        map_scene(coarse, tmp_path / "x", scene_model, replace(config, gsd=10.0), CPU)
    assert (np.kron(maps[0], np.ones((2, 2))) == maps[1]).mean() > 0.9
