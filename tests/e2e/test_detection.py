"""The pipeline `detection`, once, on tiles with boxes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import geopandas as gpd
import pandas as pd
import pytest
import yaml


@pytest.fixture(scope="module")
def boxed(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small world with a box on every tile, and a broken one on one of them."""
    folder = tmp_path_factory.mktemp("boxed") / "world"
    shutil.copytree(world.parent, folder)
    card = yaml.safe_load((folder / "dataset.yml").read_text())
    for split, entry in card["splits"].items():
        entry["boxes"] = f"{split}/boxes"
        (folder / split / "boxes").mkdir()
        for image in (folder / split / "images").glob("*.tif"):
            (folder / split / "boxes" / f"{image.stem}.txt").write_text("20 20 44 20 44 36 20 36 barn 0\n")
    (folder / "labeled" / "boxes" / "t0.txt").write_text("1 1 1 1 1 1 1 1 barn 0\n30 30 50 30 50 44 30 44 barn 0\n")
    (folder / "dataset.yml").write_text(yaml.safe_dump(card))
    return folder / "dataset.yml"


@pytest.fixture(scope="module")
def boxes_alone(boxed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another data set, which has no masks."""
    folder = tmp_path_factory.mktemp("boxes_alone") / "sheds"
    shutil.copytree(boxed.parent, folder)
    card = yaml.safe_load((folder / "dataset.yml").read_text())
    for split, entry in card["splits"].items():
        entry.pop("masks", None)
        for path in (folder / split / "boxes").glob("*.txt"):
            path.write_text(path.read_text().replace("barn", "shed"))
    (folder / "dataset.yml").write_text(yaml.safe_dump(card))
    return folder / "dataset.yml"


def test_the_pipeline_leaves_what_its_page_says(
    boxed: Path, boxes_alone: Path, tmp_path: Path, make_project, run_kedro
) -> None:
    project = make_project(tmp_path / "project")
    params = {"dataset": str(boxed), "detection": {"others": {"sheds": str(boxes_alone)}}}
    run_kedro(project, params=params, pipeline_names=["detection"])

    def newest(layer: str, name: str) -> Path:
        return sorted((project / "data" / layer / name).glob(f"*/{name}"))[-1]

    scores = json.loads(newest("08_reporting", "detection_evaluation.json").read_text())
    assert scores["split"] == "test" and scores["objects"] == {"barn": 3}
    assert 0 <= scores["map50"] <= 100 and set(scores["per_class"]) == {"ap50", "ap75", "ap"}
    assert scores["others"]["sheds"]["objects"] == {"shed": 3}
    datasets = json.loads(newest("02_intermediate", "detection_datasets.json").read_text())
    assert [facts["classes"] for facts in datasets.values()] == [["barn"], ["shed"]] and list(datasets)[1] == "sheds"
    bad = pd.read_parquet(newest("02_intermediate", "detection_quarantine.parquet"))
    assert bad["kind"].tolist() == ["zero_area"] * 2
    found = gpd.read_file(newest("07_model_output", "detected_objects.gpkg"))
    assert found.crs == "EPSG:32632" and {"image", "class", "score"} <= set(found.columns)
    assert len(found) == len(pd.read_parquet(newest("07_model_output", "detections.parquet")))
    pointer = json.loads(newest("06_models", "detector_model.json").read_text())
    assert (project / pointer["path"]).is_file() and pointer["selected_on"] == "val"
    assert newest("08_reporting", "detection_gallery.png").stat().st_size > 10_000
