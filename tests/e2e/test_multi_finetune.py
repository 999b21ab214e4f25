"""The pipeline `multi_finetune`, once, on two cards given by a YAML file."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

VIT = {"encoder": "s5_vit", "image_size": 64, "encoder_options": {"width": 24, "depth": 4, "heads": 2}}


def test_the_table_has_a_row_a_mode_and_what_is_through_is_kept(
    world: Path, write_world, tmp_path: Path, make_project, run_kedro
) -> None:
    project = make_project(tmp_path / "project")
    other = write_world(tmp_path / "other", seed=1)
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
    assert moe["parameters"] - mdf["parameters"] == 4 * 8 * (24 * 4 + 1)  # papers 1.4: part * (hidden + 1) * layers
    assert mdf["parameters"] < sdf["parameters"]
    manifest = pd.read_parquet(newest("02_intermediate", "multi_manifest.parquet"))
    assert set(manifest["dataset"]) == {"one", "two"}
    history = pd.read_parquet(newest("08_reporting", "multi_history.parquet"))
    assert history[history["mode"] == "mdf"]["loss_two"].isna().tolist() == [True, False]

    weights = {path: path.stat().st_mtime_ns for path in project.glob("data/06_models/multi_model/*/model.safetensors")}
    assert len(weights) == 4
    run_kedro(project, params=params, pipeline_names=["multi_finetune"])
    assert weights == {path: path.stat().st_mtime_ns for path in weights}
    assert json.loads(newest("08_reporting", "multi_evaluation.json").read_text()) == table

    (other.parent / "labeled" / "images" / "t0.tif").unlink()
    with pytest.raises(ValueError, match=r"multi_finetune\.datasets: multi_\w+ was made from .*files that it lists"):
        run_kedro(project, params=params, pipeline_names=["multi_finetune"], node_names=["evaluate_datasets"])
