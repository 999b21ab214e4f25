"""`kedro run --pipelines=scene_inference` on scenes and models that are there: nothing is trained."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from click.testing import CliRunner, Result

from s5.geo.raster import read_window, write_geotiff
from s5.models import create_model, make_pointer, save_model

# MLflow's store with SQLAlchemy 2.1.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
ROOT = Path(__file__).parents[2]
STATISTICS = {"bands": ["r", "g", "b"], "low": [0] * 3, "high": [255] * 3, "mean": [0.5] * 3, "std": [0.2] * 3}
UTM = {"crs": "EPSG:32632", "transform": (0.5, 0.0, 500_000.0, 0.0, -0.5, 5_000_000.0)}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, make_project: Any) -> Path:
    """A project with a finished model, its pointer, and two scenes."""
    folder: Path = make_project(tmp_path_factory.mktemp("scenes") / "project")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = create_model("resnet10t", "light", classes=3, decoder_channels=8)
    weights = folder / "data/06_models/mine/model.safetensors"
    weights.parent.mkdir(parents=True)
    save_model(model, weights, metadata={"classes": ["field", "water", "road"], "statistics": STATISTICS})
    (folder / "mine.json").write_text(json.dumps(make_pointer(weights, root=folder, step=1, config={})))
    rng = np.random.default_rng(0)
    for name, size in (("north", (90, 130)), ("south", (300, 70))):
        write_geotiff(folder / f"scenes/{name}.tif", rng.integers(1, 255, (3, *size), np.uint8), **UTM)
    return folder


@pytest.fixture
def kedro(monkeypatch: pytest.MonkeyPatch, project: Path) -> Any:
    from kedro.framework.startup import bootstrap_project

    from s5_kedro.cli import cli

    def run(**parameters: Any) -> Result:
        monkeypatch.chdir(project)
        bootstrap_project(project)
        given = {"window": 64, "overlap": 16, **parameters}
        params = ",".join(f"scene.{name}={value}" for name, value in given.items())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Kedro's own, as in conftest.py
            command = ["run", "--env=test", "--pipelines=scene_inference", f"--params={params}"]
            return CliRunner().invoke(cli, command)

    return run


def latest(project: Path, name: str) -> Any:
    version = max((project / "data" / name).iterdir())
    return json.loads((version / Path(name).name).read_text(encoding="utf-8"))


def test_a_folder_of_scenes_is_mapped_with_a_finished_model(project: Path, kedro: Any) -> None:
    result = kedro(images="scenes", model="mine.json", min_area=1)
    assert result.exit_code == 0, result.output
    maps = latest(project, "07_model_output/scene_maps.json")
    assert [scene["name"] for scene in maps["scenes"]] == ["north", "south"]
    assert maps["classes"] == ["field", "water", "road"]
    for scene, shape in zip(maps["scenes"], [(90, 130), (300, 70)], strict=True):
        assert scene["folder"] == f"data/07_model_output/scene/{scene['name']}"
        assert all((project / file).is_file() for file in scene["files"].values())
        assert Path(scene["files"]["polygons"]).name == "polygons.gpkg"
        with rasterio.open(project / scene["files"]["classes"]) as classes:
            assert classes.shape == shape
            assert classes.crs == "EPSG:32632"
        page = (project / scene["files"]["index"]).read_text(encoding="utf-8")
        assert "http" not in page.replace("http://www.w3.org", "")
        assert "@@" not in page
    assert (project / "data/08_reporting/scene_areas.parquet").is_dir()
    assert not (project / "data/01_raw/demo").exists()  # nobody asked for the demo world


def test_a_damaged_scene_is_mapped_in_part_and_says_so(project: Path, kedro: Any) -> None:
    damaged = project / "damaged/scene.tif"
    write_geotiff(damaged, np.full((3, 300, 70), 9, np.uint8), tiled=True, **UTM)
    with rasterio.open(damaged) as file:
        offset = int(file.get_tag_item("BLOCK_OFFSET_0_1", "TIFF", bidx=1))
    content = bytearray(damaged.read_bytes())
    content[offset : offset + 30] = bytes(30)
    damaged.write_bytes(content)
    (damaged.parent / "torn.tif").write_bytes(content[:100])
    result = kedro(images="damaged", model="mine.json", polygons=False)
    assert result.exit_code == 3
    assert "partial: 1 scenes are mapped, but" in result.output
    assert "torn.tif: cannot be opened as a raster" in result.output
    assert "1 damaged blocks of scene.tif could not be read" in result.output
    (scene,) = latest(project, "07_model_output/scene_maps.json")["scenes"]
    labels = read_window(project / scene["files"]["classes"])[0][0]
    assert (labels[256:] == 255).all()
    assert (labels[:256] != 255).all()
    shutil.rmtree(damaged.parent)


def test_a_released_checkpoint_maps(project: Path, kedro: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from s5.models import released

    monkeypatch.setitem(released._HEADS, 32, 4)  # the papers' networks are wider
    folder = ROOT / "tests/golden/s5_checkpoints"
    result = kedro(images="scenes/north.tif", model=folder / "tiny_vit_s4p_upernet.pth", polygons=False)
    assert result.exit_code == 0, result.output
    assert latest(project, "07_model_output/scene_maps.json")["classes"] == [f"class {k}" for k in range(16)]
    result = kedro(images="scenes/north.tif", model=folder / "tiny_vit_s4p.pth")
    assert "is an encoder alone, which maps no classes" in result.output
    result = kedro(images="scenes/north.tif", model=folder / "tiny_vit_moe_mdf.pth")
    assert "say of which with scene.task=NAME" in result.output


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"images": "scenes"},
            "finetuned_model: there is none yet; make it with kedro run --pipelines=finetune, or map",
        ),
        ({"images": "nowhere/*.tif", "model": "mine.json"}, "scene.images: nowhere/*.tif: there is no such file"),
        ({"images": "scenes", "model": "other.json"}, "scene.model: there is no file other.json"),
        ({"images": "scenes", "model": "mine.json", "zones": "z.gpkg"}, "scene.zones: there is no file z.gpkg"),
        ({"images": "scenes", "model": "mine.json", "overlap": 300}, "scene.overlap: expected at most half"),
    ],
)
def test_mistakes_are_answered_before_anything_is_computed(
    kedro: Any, parameters: dict[str, Any], message: str
) -> None:
    result = kedro(**parameters)
    assert result.exit_code == 1
    assert message in result.output
