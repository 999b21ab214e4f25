"""S4P with purification, once, the evidence coming from a finished network; and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

# MLflow's store with SQLAlchemy 2.1.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


NODES = ["train_embedded", "ground_tiles", "fit_purifier", "purification_report", "pretrain_s4p"]


def newest(project: Path, layer: str, name: str) -> Path:
    return sorted((project / "data" / layer / name).glob(f"*/{name}"))[-1]


def read(project: Path, layer: str, name: str) -> Any:
    return json.loads(newest(project, layer, name).read_text())


@pytest.fixture(scope="module")
def purified(finished: Path, world: Path, run_kedro: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished project in which S4P ran once more, purified by its own supervised model."""
    folder = tmp_path_factory.mktemp("purified") / "project"
    project = Path(shutil.copytree(finished, folder, ignore=shutil.ignore_patterns("mlflow.db")))
    network = newest(project, "06_models", "supervised_model.json")
    given = {"dataset": str(world), "purification": {"enabled": True, "network": str(network), "gallery_tiles": 2}}
    run_kedro(project, params=given, node_names=NODES)
    return project


def test_off_leaves_records_that_say_so(finished: Path) -> None:
    assert read(finished, "05_model_input", "purifier.json") == {"enabled": False}
    assert read(finished, "08_reporting", "purification_report.json") == {"enabled": False}
    assert pd.read_parquet(newest(finished, "05_model_input", "tile_priors.parquet")).empty
    history = pd.read_parquet(newest(finished, "08_reporting", "s4p_history.parquet"))
    assert not [name for name in history if "purified" in name]


def test_each_tile_has_its_evidence_and_the_purifier_says_what_it_was_fitted_on(purified: Path) -> None:
    priors = pd.read_parquet(newest(purified, "05_model_input", "tile_priors.parquet"))
    pool = pd.read_parquet(newest(purified, "05_model_input", "pretrain_pool.parquet"))
    assert list(priors.loc[priors["split"] == "unlabeled", "tile_id"]) == list(pool["tile_id"])
    assert priors["split"].value_counts()["val"] == 2
    purifier = read(purified, "05_model_input", "purifier.json")
    assert purifier["fitted_on"] == {"split": "val", "num_tiles": 2, "num_pixels": 4096}
    assert set(purifier["trust"]) == {"field", "water", "building"}
    assert (purified / purifier["priors"]).is_file()


def test_the_report_counts_pixels_and_s4p_was_purified(purified: Path) -> None:
    report = read(purified, "08_reporting", "purification_report.json")
    assert report["split"] == "unlabeled"
    pool = pd.read_parquet(newest(purified, "05_model_input", "pretrain_pool.parquet"))
    assert report["num_pixels"] == len(pool) * 64 * 64
    assert 0 <= report["before"]["accuracy"] <= 100
    assert newest(purified, "08_reporting", "purification_gallery.png").stat().st_size > 0
    history = pd.read_parquet(newest(purified, "08_reporting", "s4p_history.parquet"))
    assert {"teacher_accuracy", "purified_accuracy", "purified_relabelled"} <= set(history)


def test_the_embedded_model_is_trained_and_asked_without_a_download(
    purified: Path, world: Path, run_kedro: Any
) -> None:
    pytest.importorskip("open_clip")
    small = {"scenes": 1, "scene_size": 64, "steps": 2, "batch_size": 2}
    given = {"dataset": str(world), "purification": {"enabled": True, "embedded": small}}
    run_kedro(purified, params=given, node_names=["train_embedded", "ground_tiles"])
    model = read(purified, "06_models", "embedded_model.json")
    assert model["folder"] == "data/06_models/embedded" and model["labels"]["pixels"] > 0
    priors = pd.read_parquet(newest(purified, "05_model_input", "tile_priors.parquet"))
    assert (priors["channels"] == 4).all()
    key = json.loads((purified / priors["index"][0]).with_name("grounder.json").read_text())
    assert key["grounder"]["grounder"] == "embedded"


def test_a_network_that_is_not_there_is_named(finished: Path, world: Path, run_kedro: Any) -> None:
    given = {"dataset": str(world), "purification": {"enabled": True, "network": "nowhere.json"}}
    with pytest.raises(FileNotFoundError, match=r"purification\.network: there is no file nowhere\.json"):
        run_kedro(finished, params=given, node_names=["ground_tiles"])
