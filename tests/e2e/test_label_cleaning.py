"""The pipeline `label_cleaning`: corrected maps, and which changes a few clean tiles trust."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

# MLflow's store with SQLAlchemy 2.1.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


def test_labels_are_cleaned_with_the_trust_that_clean_tiles_give(
    tmp_path: Path, write_world: Any, make_project: Any, run_kedro: Any
) -> None:
    project = make_project(tmp_path / "project")
    given = {
        "dataset": str(write_world(tmp_path / "world")),
        "noisy_labels": {"source": "corrupt", "split": "labeled"},
        "label_cleaning": {"trust": "labeled"},
    }
    run_kedro(project, params=given, pipeline_names=["ingestion", "noisy_labels", "label_cleaning"])
    name = "cleaning_report.json"
    report = json.loads(next((project / "data" / "08_reporting" / name).glob(f"*/{name}")).read_text())
    assert report["tiles"] == 4 and report["before"] is report["after"] is None  # all of them gave the trust
    assert len(list((project / "data" / "07_model_output" / "cleaned_labels").glob("*/labels/*.tif"))) == 4
