"""Which scenes `scene.images` names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from s5.geo.raster import write_geotiff
from s5_kedro.pipelines.scene_inference.models import model_file
from s5_kedro.pipelines.scene_inference.nodes import check_scenes
from s5_kedro.pipelines.scene_inference.scenes import find_scenes


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("b.tif", "a.tif", "a.png", "deep/c.tif", "notes.txt", "a.tif.aux.xml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("images", "names"),
    [
        (".", {"a.png": "a.png", "a.tif": "a.tif", "b": "b.tif"}),
        ("b.tif", {"b": "b.tif"}),
        ("*.tif", {"a": "a.tif", "b": "b.tif"}),
        ("**/*.tif", {"a": "a.tif", "b": "b.tif", "c": "deep/c.tif"}),
    ],
)
def test_folders_files_and_globs(folder: Path, images: str, names: dict[str, str]) -> None:
    expected = {name: str(folder / path) for name, path in names.items()}
    assert find_scenes(images, "demo") == expected
    assert find_scenes(str(folder / images), "demo") == expected


@pytest.mark.parametrize("path", ["/vsicurl/https://x.org/in/scene.tif", "s3://bucket/in/scene.tif"])
def test_paths_of_gdal(path: str) -> None:
    assert find_scenes(path, "demo") == {"scene": path}


def test_files_that_are_no_scenes_or_models(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"scene\.images: deep/\*\.png: there is no such file"):
        find_scenes("deep/*.png", "demo")
    (folder / "deep/c.tif").unlink()
    with pytest.raises(FileNotFoundError, match=r"scene\.images: deep: there is no such|deep: holds no raster"):
        find_scenes("deep", "demo")
    with pytest.raises(
        ValueError,
        match=r"scene\.model: expected a model pointer \(\.json\) or weights \(.*\), got notes\.txt",
    ):
        model_file("notes.txt")


def test_two_scenes_of_one_name(folder: Path) -> None:
    (folder / "deep/a.tif").touch()
    with pytest.raises(ValueError, match=r"several scenes are called a\.tif"):
        find_scenes("**/a.tif", "demo")


def test_without_images_a_small_one_of_the_dataset_is_mapped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, write_card: Callable[..., Path]
) -> None:
    card = write_card(tmp_path, {"one.tif": (3, 2100, 2100), "two.tif": (1, 8, 8), "three.tif": (3, 8, 8)})
    assert find_scenes(None, str(card)) == {"three": str(tmp_path / "test/three.tif")}
    (tmp_path / "test/three.tif").unlink()
    assert find_scenes(None, str(card)) == {}
    assert "no image of the dataset has at most 2048 x 2048 pixels" in caplog.text


@pytest.fixture
def write_card() -> Callable[..., Path]:
    def write(folder: Path, images: dict[str, tuple[int, int, int]]) -> Path:
        for name, shape in images.items():
            write_geotiff(folder / "test" / name, np.zeros(shape, np.uint8))
            write_geotiff(folder / "masks" / name, np.zeros(shape[1:], np.uint8))
        card = folder / "dataset.yml"
        card.write_text(
            "name: d\nclasses: [a, b]\nbands: [r, g, b]\nsplits: {test: {images: test, masks: masks}}\n",
            encoding="utf-8",
        )
        return card

    return write


def test_what_is_missing_is_an_error_after_everything_was_written() -> None:
    from s5.inference import PartialMapError

    row = {"class": "a", "pixels": 4, "area_m2": None, "share": 1.0}
    scene = {"name": "x", "areas": [row], "damaged": [], "notes": ["x has no CRS"]}
    table = check_scenes({"scenes": [scene], "unreadable": []})
    assert table[["scene", "class", "pixels"]].values.tolist() == [["x", "a", 4]]
    assert len(check_scenes({"scenes": [], "unreadable": []})) == 0
    broken = {**scene, "damaged": [{}], "notes": ["2 damaged blocks of x"]}
    with pytest.raises(PartialMapError, match=r"partial: 1 scenes are mapped, but y: torn; 2 damaged blocks"):
        check_scenes({"scenes": [broken], "unreadable": [{"image": "y", "error": "y: torn"}]})
