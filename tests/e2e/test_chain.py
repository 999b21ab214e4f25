"""The whole chain in a real Kedro session on a small dataset: what a run leaves, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

# MLflow's store with SQLAlchemy 2.1.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

NAMES = {
    "02_intermediate": ["tile_manifest.parquet", "quarantine.parquet", "band_statistics.json", "label_space.json"],
    "04_feature": ["tile_scores.parquet", "tile_embeddings.npy", "labeled_embeddings.npy"],
    "05_model_input": ["pretrain_pool.parquet", "selection_clusters.parquet", "selection_dropped.parquet"],
    "06_models": ["seed_model.json", "supervised_model.json", "s4p_model.json", "finetuned_model.json"],
    "08_reporting": [
        "selection_report.png",
        "s4p_history.parquet",
        "evaluation.json",
        "confusion_matrix.png",
        "prediction_gallery.png",
        "report.html",
    ],
}


def newest(project: Path, layer: str, name: str) -> Path:
    return sorted((project / "data" / layer / name).glob(f"*/{name}"))[-1]


def test_a_run_leaves_every_artefact_under_its_name_with_a_fingerprint(finished: Path) -> None:
    for layer, names in NAMES.items():
        for name in names:
            path = newest(finished, layer, name)
            assert path.stat().st_size > 0
            assert "lineage" in json.loads(path.with_name("fingerprint.json").read_text())


def test_scores_agree_with_the_confusion_counts(finished: Path) -> None:
    scores = json.loads(newest(finished, "08_reporting", "evaluation.json").read_text())
    counts = json.loads(newest(finished, "08_reporting", "confusion_counts.json").read_text())
    assert list(scores["models"]) == ["supervised", "s4p", "finetuned"]
    assert scores["dataset"] == "mini"
    for name, values in scores["models"].items():
        matrix = counts["models"][name]
        total = sum(map(sum, matrix))
        assert values["n_pixels"] == total == 3 * 64 * 64
        assert values["oa"] == pytest.approx(100 * sum(matrix[i][i] for i in range(3)) / total)
        assert set(values) >= {"miou", "macc", "mf1", "per_class_iou", "seed", "steps", "labeled_seen", "selected_on"}


def test_the_baseline_had_at_least_as_much_training_as_the_compared_models(finished: Path) -> None:
    models = json.loads(newest(finished, "08_reporting", "evaluation.json").read_text())["models"]
    for key in ("steps", "labeled_seen"):
        assert models["supervised"][key] >= models["finetuned"][key] >= models["s4p"][key] > 0
    assert {model["selected_on"] for model in models.values()} == {"val"}


def test_the_manifest_is_geoparquet_on_the_right_spot(finished: Path) -> None:
    import geopandas

    manifest = geopandas.read_parquet(newest(finished, "02_intermediate", "tile_manifest.parquet"))
    assert manifest.crs.to_epsg() == 4326
    west, south, east, north = manifest.total_bounds
    assert 8.9 < west < east < 9.1
    assert 47 < south < north < 49
    scores = pd.read_parquet(newest(finished, "04_feature", "tile_scores.parquet"))
    assert list(scores["tile_id"]) == list(manifest[manifest["split"] == "unlabeled"]["tile_id"])


def test_mlflow_holds_parameters_metrics_over_steps_tags_and_plots(finished: Path) -> None:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{finished / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("s5")
    (run,) = [
        r for r in client.search_runs([experiment.experiment_id]) if r.data.tags["mlflow.runName"] == "__default__"
    ]
    assert run.info.status == "FINISHED"
    assert run.data.params["s4p.optimizer.lr"] == "0.001"
    assert {key: run.data.tags[key] for key in ("dataset", "seed")} == {"dataset": "mini", "seed": "0"}
    assert "git_revision" in run.data.tags
    history = client.get_metric_history(run.info.run_id, "s4p.loss")
    assert [metric.step for metric in history] == sorted({metric.step for metric in history})
    assert len(history) == len(pd.read_parquet(newest(finished, "08_reporting", "s4p_history.parquet")))
    for key in ("seed_model.loss", "supervised.loss", "finetune.loss", "s4p.confident_share", "evaluation.s4p.miou"):
        assert key in run.data.metrics
    shown = {artifact.path for artifact in client.list_artifacts(run.info.run_id, "08_reporting")}
    assert {"08_reporting/report.html", "08_reporting/confusion_matrix.png"} <= shown
    assert client.list_artifacts(run.info.run_id, "06_models")


def test_nothing_lies_beside_the_artefacts(finished: Path) -> None:
    assert not [path for path in (finished / "data").rglob("*") if ".tmp" in path.name or path.name == "checkpoints"]


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished project, for tests that run in it."""
    return Path(shutil.copytree(finished, tmp_path / "project", ignore=shutil.ignore_patterns("mlflow.db")))


def params(world: Path, **values: Any) -> dict[str, Any]:
    return {"dataset": str(world), **values}


def test_only_missing_outputs_makes_what_is_missing_and_nothing_else(
    project: Path, world: Path, run_kedro: Any
) -> None:
    shutil.rmtree(project / "data/08_reporting/report.html")
    before = sorted((project / "data").rglob("*.json"))
    run_kedro(project, params=params(world), only_missing_outputs=True)
    made = [path for path in sorted((project / "data").rglob("*.json")) if path not in before]
    assert [path.parent.parent.name for path in made] == ["report.html"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 1}, "seed = 0, this run has 1"),
        ({"s4p": {"optimizer": {"lr": 0.1}}}, r"s4p_model: pretrain_s4p made it with s4p.optimizer.lr = 0.001.* 0.1"),
        (
            {"entropy_scoring": {"batch_size": 3}},
            "embed_tiles made it with entropy_scoring.batch_size = 16, this run has 3",
        ),
    ],
)
def test_skipping_artefacts_of_other_settings_is_refused(
    project: Path, world: Path, run_kedro: Any, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run_kedro(project, params=params(world, **changed), only_missing_outputs=True)


def test_skipping_artefacts_of_another_or_a_changed_dataset_is_refused(
    project: Path, world: Path, run_kedro: Any, write_world: Any, tmp_path: Path
) -> None:
    other = write_world(tmp_path / "other", seed=5)
    with pytest.raises(ValueError, match=r"dataset: .* was made from .*dataset.yml, this run has .*other"):
        run_kedro(project, params=params(other), only_missing_outputs=True)
    moved = Path(shutil.copytree(world.parent, tmp_path / "moved"))
    run_kedro(project, params=params(moved / "dataset.yml"), only_missing_outputs=True, pipeline_names=["ingestion"])


def test_evaluation_reuses_the_models_of_this_card_and_seed_only(
    project: Path, world: Path, run_kedro: Any, write_world: Any, tmp_path: Path
) -> None:
    run_kedro(project, params=params(world, evaluation={"batch_size": 1}), pipeline_names=["evaluation"])
    with pytest.raises(ValueError, match=r"model: .* made it with seed = 0, this run has 1"):
        run_kedro(project, params=params(world, seed=1), pipeline_names=["evaluation"])
    other = write_world(tmp_path / "other", seed=5)
    with pytest.raises(ValueError, match=r"dataset: .*_model was made from"):
        run_kedro(project, params=params(other), pipeline_names=["evaluation"])


@pytest.mark.parametrize("kind", ["pointer", "weights"])
def test_a_finished_model_serves_on_a_card_with_only_test(
    finished: Path, tmp_path: Path, run_kedro: Any, make_project: Any, write_world: Any, kind: str
) -> None:
    card = write_world(tmp_path / "other", splits={"test": 2}, seed=9)
    project = make_project(tmp_path / "project")
    pointer = newest(finished, "06_models", "s4p_model.json")
    weights = finished / json.loads(pointer.read_text())["path"]
    mine = pointer if kind == "pointer" else weights
    given = params(card, evaluation={"models": {"mine": str(mine)}})
    run_kedro(project, params=given, pipeline_names=["evaluation"])
    scores = json.loads(newest(project, "08_reporting", "evaluation.json").read_text())
    assert list(scores["models"]) == ["mine"]
    assert scores["models"]["mine"]["n_pixels"] == 2 * 64 * 64
    assert scores["models"]["mine"]["seed"] == (0 if kind == "pointer" else None)


def test_a_missing_model_says_which_pipeline_makes_it(
    world: Path, tmp_path: Path, run_kedro: Any, make_project: Any
) -> None:
    project = make_project(tmp_path / "project")
    with pytest.raises(FileNotFoundError, match=r"finetuned_model: there is none yet; .*--pipelines=finetune"):
        run_kedro(project, params=params(world), pipeline_names=["evaluation"])
    with pytest.raises(FileNotFoundError, match=r"band_statistics: .*--pipelines=ingestion"):
        run_kedro(project, params=params(world), from_nodes=["finetune_model"])
    assert not list((project / "data").iterdir())


def test_a_model_of_other_classes_is_refused(finished: Path, tmp_path: Path, run_kedro: Any, write_world: Any) -> None:
    card = write_world(tmp_path / "other", splits={"test": 1})
    card.write_text(card.read_text().replace("water", "sea"))
    pointer = newest(finished, "06_models", "s4p_model.json")
    given = params(card, evaluation={"models": {"mine": str(pointer)}})
    copy = Path(shutil.copytree(finished, tmp_path / "project", ignore=shutil.ignore_patterns("mlflow.db")))
    with pytest.raises(ValueError, match=r"mine: the model knows the classes .*water.*, the dataset has .*sea"):
        run_kedro(copy, params=given, pipeline_names=["evaluation"])


def test_the_same_command_gives_the_same_weights(
    finished: Path, world: Path, tmp_path: Path, run_kedro: Any, make_project: Any
) -> None:
    again = make_project(tmp_path / "project")
    run_kedro(again, params=params(world), pipeline_names=["s4p_pretrain"])
    first, second = (json.loads(newest(p, "06_models", "s4p_model.json").read_text()) for p in (finished, again))
    assert first["sha256"] == second["sha256"]
