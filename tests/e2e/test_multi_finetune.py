"""The pipeline `multi_finetune`, once, on two cards given by a YAML file."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import rasterio
import torch
import yaml

from s5.models import load_model, open_pointer

# MLflow's store with SQLAlchemy 2.1.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

WINDOWS = {"mode": "window", "size": 32, "leave_out": ["water"], "boundary": 0.05}
VIT = {"encoder": "s5_vit", "image_size": 64, "encoder_options": {"width": 24, "depth": 4, "heads": 2}}


def test_the_table_has_a_row_a_mode_and_what_is_through_is_kept(
    world: Path, write_world, tmp_path: Path, make_project, run_kedro
) -> None:
    project = make_project(tmp_path / "project")
    other = write_world(tmp_path / "other", seed=1)
    other.write_text(other.read_text().replace("name: mini", "name: coast") + yaml.safe_dump({"protocol": WINDOWS}))
    (tmp_path / "sets.yml").write_text(
        yaml.safe_dump({"one": str(world), "two": {"card": "other", "weight": 0.5, "start": 1}})
    )
    params = {"multi_finetune": {"datasets": str(tmp_path / "sets.yml"), "mode": "sdf+mdf+moe"}, "model": VIT}
    run_kedro(project, params=params, pipeline_names=["multi_finetune"])

    def newest(layer: str, name: str) -> Path:
        return sorted((project / "data" / layer / name).glob(f"*/{name}"))[-1]

    table = json.loads(newest("08_reporting", "multi_evaluation.json").read_text())
    assert table["split"] == "test" and [row["mode"] for row in table["rows"]] == ["sdf", "mdf", "moe"]
    sdf, mdf, moe = table["rows"]
    for row in table["rows"]:
        assert set(row["datasets"]) == {"one", "two"} and row["seed"] == 0
        mean = sum(of["miou"] for of in row["datasets"].values()) / 2
        assert row["mean_miou"] == pytest.approx(mean)
        assert {"miou", "mf1", "oa", "macc", "per_class_iou"} <= set(row["datasets"]["one"])
    assert_each_card_has_its_own_protocol(project, table)
    assert moe["parameters"] - mdf["parameters"] == 4 * 8 * (24 * 4 + 1)  # papers 1.4: part * (hidden + 1) * layers
    assert mdf["parameters"] < sdf["parameters"]
    manifest = pd.read_parquet(newest("02_intermediate", "multi_manifest.parquet"))
    assert set(manifest["dataset"]) == {"one", "two"}
    history = pd.read_parquet(newest("08_reporting", "multi_history.parquet"))
    assert history[history["mode"] == "mdf"]["loss_two"].isna().tolist() == [True, False]

    client = mlflow.MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("s5").experiment_id])
    assert [run.data.tags["dataset"] for run in runs] == ["mini, coast"]

    weights = {path: path.stat().st_mtime_ns for path in project.glob("data/06_models/multi_model/*/model.safetensors")}
    assert len(weights) == 4
    run_kedro(project, params=params, pipeline_names=["multi_finetune"])
    assert weights == {path: path.stat().st_mtime_ns for path in weights}
    assert json.loads(newest("08_reporting", "multi_evaluation.json").read_text()) == table

    (other.parent / "labeled" / "images" / "t0.tif").unlink()
    with pytest.raises(ValueError, match=r"multi_finetune\.datasets: multi_\w+ was made from .*files that it lists"):
        run_kedro(project, params=params, pipeline_names=["multi_finetune"], node_names=["evaluate_datasets"])


def assert_each_card_has_its_own_protocol(project: Path, table: dict) -> None:
    """One card measures whole tiles; the other windows of 32 px, which are quarters of its tiles, without water."""
    assert (table["protocols"]["one"]["mode"], table["protocols"]["two"]["mode"]) == ("whole", "window")
    for row in table["rows"]:
        one, two = row["datasets"]["one"], row["datasets"]["two"]
        assert one["miou"] == pytest.approx(np.mean([v for v in one["per_class_iou"].values() if v is not None]))
        kept = [value for name, value in two["per_class_iou"].items() if name != "water" and value is not None]
        assert two["miou"] == pytest.approx(np.mean(kept))
        assert "boundary_miou" in two and "boundary_miou" not in one
    models = json.loads(sorted(project.glob("data/06_models/multi_models.json/*/*.json"))[-1].read_text())["runs"]
    weights = open_pointer(next(run for run in models if run["mode"] == "mdf")["models"][0]["pointer"], project)
    found = next(row for row in table["rows"] if row["mode"] == "mdf")["datasets"]["two"]["oa"]
    in_windows, whole = (accuracy(weights, "two", project.parent / "other" / "test", size) for size in (32, 64))
    assert found == pytest.approx(in_windows) and in_windows != pytest.approx(whole)


def accuracy(weights: Path, task: str, folder: Path, size: int) -> float:
    """Pixels right in percent where a network sees squares of `size` pixels, each alone."""
    model, metadata = load_model(weights, task=task)
    mean, std = (torch.tensor(metadata["statistics"][key])[:, None, None] for key in ("mean", "std"))
    right = []
    for path in sorted((folder / "images").iterdir()):
        with rasterio.open(path) as image, rasterio.open(folder / "masks" / path.name) as mask:
            pixels, truth = torch.from_numpy(image.read()).float(), torch.from_numpy(mask.read(1))
        for row in range(0, 64, size):
            for col in range(0, 64, size):
                place = (..., slice(row, row + size), slice(col, col + size))
                with torch.inference_mode():
                    said = model.eval()(((pixels[place] / 255 - mean) / std)[None]).argmax(1)[0]
                right.append((said == truth[place]).float().mean())
    return 100 * float(torch.stack(right).mean())
