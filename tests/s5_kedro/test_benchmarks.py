"""Nodes around published data sets: import, table of results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from s5_kedro import project
from s5_kedro.checks import check_parameters
from s5_kedro.pipelines.dataset_import.nodes import import_dataset
from s5_kedro.pipelines.results_table import create_pipeline
from s5_kedro.pipelines.results_table.config import ResultsTableConfig, read_evaluations
from s5_kedro.pipelines.results_table.nodes import make_results_table
from s5_kedro.records import protocol_of


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(project, "_root", [tmp_path])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def document(path: Path, dataset: str, miou: float, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    models = {"mine": {"miou": miou, "mf1": miou, "seed": seed}}
    path.write_text(json.dumps({"dataset": dataset, "split": "test", "models": models}))


def test_an_archive_in_the_project_becomes_a_card_there(root: Path) -> None:
    for split in ("Train", "Val"):
        for kind in ("images_png", "masks_png"):
            path = root / "archive" / split / "Urban" / kind / "1.png"
            path.parent.mkdir(parents=True)
            Image.fromarray(np.ones((8, 8, 3) if kind == "images_png" else (8, 8), np.uint8)).save(path)
    report = import_dataset({"name": "loveda", "root": "archive"})
    assert report["card"] == str(root / "data/01_raw/loveda/dataset.yml") and Path(report["card"]).is_file()
    assert report["splits"]["labeled"]["images"] == 1 and not report["complete"]
    json.dumps(report, allow_nan=False)


def test_what_is_not_given_is_asked_for_before_anything_runs() -> None:
    from s5_kedro.pipelines.dataset_import import create_pipeline as importing
    from s5_kedro.pipelines.submission import create_pipeline as submission

    values: dict[str, Any] = {"seed": 0, "dataset_import": {}, "submission": {}, "compute": {"device": "cpu"}}
    with pytest.raises(ValueError, match=r"dataset_import\.name: give one of deepglobe"):
        check_parameters(importing(), values)
    values["dataset_import"] = {"name": "loveda"}
    with pytest.raises(ValueError, match=r"dataset_import\.root: give the folder of loveda"):
        check_parameters(importing(), values)
    with pytest.raises(ValueError, match=r"submission\.model: give a finished model"):
        check_parameters(submission(), values)


def test_evaluations_are_found_by_path_star_and_latest_version(root: Path) -> None:
    entry = root / "data/08_reporting/evaluation.json"
    document(entry / "2026-01-01T00" / "evaluation.json", "town", 50.0)
    document(entry / "2026-02-01T00" / "evaluation.json", "town", 60.0, seed=1)
    document(root / "other" / "b.json", "village", 40.0)
    latest = read_evaluations("data/08_reporting/evaluation.json; other/b.json")
    assert [found["models"]["mine"]["miou"] for found in latest] == [60.0, 40.0]
    every = read_evaluations("data/08_reporting/evaluation.json/*/evaluation.json")
    assert [found["models"]["mine"]["miou"] for found in every] == [50.0, 60.0]
    with pytest.raises(FileNotFoundError, match=r"there is no file missing\.json"):
        read_evaluations("missing.json")


def test_the_table_has_four_formats(root: Path) -> None:
    document(root / "a.json", "loveda", 50.0, seed=0)
    document(root / "b.json", "loveda", 54.0, seed=1)
    html, markdown, latex, rows = make_results_table({"evaluations": "a.json;b.json", "title": "Mine"})
    for text in (html, markdown, latex):
        assert "52.00" in text and "2.83" in text
    assert rows["rows"][0]["scores"]["loveda"] == {"mean": 52.0, "std": pytest.approx(8**0.5), "seeds": 2}
    assert len(create_pipeline().all_outputs()) == 4


def test_wrong_table_settings() -> None:
    with pytest.raises(ValueError, match="published: expected some of s5_table1, s5_table3, or none, got 's6'"):
        ResultsTableConfig(published="s5_table1;s6")
    assert ResultsTableConfig(published="none").tables == []


def test_the_protocol_of_the_card_unless_another_is_given() -> None:
    from s5.data.protocol import PRESETS

    space = {"classes": ["land", "water"], "protocol": PRESETS["loveda"].to_dict()}
    assert protocol_of(space) == PRESETS["loveda"]
    assert protocol_of(space, "null") == PRESETS["loveda"]
    assert protocol_of(space, "whole") == PRESETS["whole"]
    assert protocol_of({"classes": ["land", "water"]}) == PRESETS["whole"]  # made by an earlier version
