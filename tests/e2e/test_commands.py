"""What a user types: mistakes answered with one message, interruption and continuation, kedro-viz."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

# MLflow's store with SQLAlchemy 2.1.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


@pytest.fixture
def kedro(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`kedro run` in this process."""
    from kedro.framework.startup import bootstrap_project

    from s5_kedro.cli import cli

    def run(project: Path, *arguments: str) -> Result:
        monkeypatch.chdir(project)
        bootstrap_project(project)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Kedro's own, as in conftest.py, and that --pipeline is deprecated
            return CliRunner().invoke(cli, ["run", "--env=test", *arguments])

    return run


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory, make_project: Any) -> Path:
    return make_project(tmp_path_factory.mktemp("commands") / "project")


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ("s4p.stps=10", "Error: s4p.stps: there is no such parameter; did you mean s4p.steps?"),
        ("s4p.tau=0.9", "did you mean s4p.pseudo_labels.tau?"),
        ("spam.steps=10", "Error: spam: there is no such parameter"),
        ("s4p.pseudo_labels.tau=1.5", "s4p.pseudo_labels.tau: expected a confidence in (0, 1], got 1.5"),
        ("s4p.batch_size=0", "s4p.batch_size: expected a whole number of at least 1, got 0"),
        ("ingestion.tile_size=-64", "ingestion.tile_size: expected a whole number of at least 1, got -64"),
        ("seed=-1", "Error: seed: expected a whole number of at least 0, got -1"),
        ("seed=one", "Error: seed: expected a whole number of at least 0, got 'one'"),
        ("model.encoder=resnet1x", "resnet1x"),
        ("s4p.tune.what=heads", "Error: s4p.tune.what: expected one of all, decoder, head, lora, got 'heads'; did you"),
        ("s4p.tune.what=lora", "Error: s4p.tune: lora: encoder 'resnet10t' has no attention"),
        ("s4p.optimizer.layer_decay=1.5", "Error: s4p.optimizer.layer_decay: expected a factor in (0, 1], got 1.5"),
        pytest.param(
            "compute.device=cuda",
            "compute.device: 'cuda' was asked for but this machine has no GPU",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
        ("s4p.init=nowhere.json", "Error: s4p.init: there is no file nowhere.json"),
        ("dataset=nowhere/dataset.yml", "Error: dataset: there is no file nowhere/dataset.yml"),
    ],
)
def test_a_wrong_parameter_is_told_before_anything_is_computed(
    kedro: Any, empty: Path, world: Path, params: str, message: str
) -> None:
    given = params if params.startswith("dataset") else f"dataset={world},{params}"
    result = kedro(empty, "--pipelines=s4p_pretrain", f"--params={given}")
    assert result.exit_code == 1
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert not list((empty / "data").iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("classes: [a, b", "is not YAML"),
        ("name: x\nclasses: [a]\nbands: [red]\nsplits: {test: {list: t.csv}}", "at least 2 classes, got 1"),
        ("name: x\nclasses: []\nbands: [red]\nsplits: {test: {list: t.csv}}", "classes"),
        ("name: x\nclasses: [a, b]\nbands: [red]\nsplits: {test: {images: none, masks: none}}", "splits.test.images"),
    ],
)
def test_a_wrong_card_is_told_at_once(kedro: Any, empty: Path, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "dataset.yml").write_text(text)
    result = kedro(empty, "--pipelines=ingestion", f"--params=dataset={tmp_path}")
    assert result.exit_code == 1
    assert message in result.stderr
    assert "dataset.yml" in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize("option", ["--pipeline=ingestion", "--pipelines=ingestion"])
def test_both_spellings_of_pipeline_work(kedro: Any, empty: Path, world: Path, option: str) -> None:
    assert kedro(empty, option, f"--params=dataset={world}").exit_code == 0


def test_a_bug_keeps_its_traceback(kedro: Any, empty: Path, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("internal")

    monkeypatch.setattr("s5.data.ingest.ingest", broken)
    result = kedro(empty, "--pipelines=ingestion", f"--params=dataset={world}")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert "KeyError: 'internal'" in result.stderr


def test_a_full_disk_is_told_and_leaves_earlier_artefacts(
    kedro: Any, empty: Path, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kedro(empty, "--pipelines=ingestion", f"--params=dataset={world}").exit_code == 0
    manifest = empty / "data/02_intermediate/tile_manifest.parquet"
    before = sorted(manifest.rglob("*"))

    def full(self: object, path: Path, data: Any) -> None:
        path.write_bytes(b"PAR1 half of it")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("s5_kedro.datasets.GeoParquetDataset._write", full)
    result = kedro(empty, "--pipelines=ingestion", f"--params=dataset={world}")
    assert result.exit_code == 1
    assert "No space left on device" in result.stderr
    assert "Traceback" not in result.output
    assert sorted(manifest.rglob("*")) == before


def test_a_bad_mask_is_quarantined_or_told(kedro: Any, empty: Path, tmp_path: Path, write_world: Any) -> None:
    card = write_world(tmp_path / "world", splits={"labeled": 3, "val": 1, "test": 1})
    card.write_text(card.read_text().replace("- building\n", ""))
    result = kedro(empty, "--pipelines=ingestion", f"--params=dataset={card}")
    assert result.exit_code == 1
    assert "value 2" in result.stderr
    assert "Traceback" not in result.output


@contextmanager
def started(project: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "kedro", "run", "--env=test", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DO_NOT_TRACK": "1"}
    with subprocess.Popen(command, cwd=project, env=environment, stderr=subprocess.PIPE, text=True) as process:
        yield process


LONGER = {"steps": 30, "checkpoint_every": 2, "validate_every": 10}


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory: pytest.TempPathFactory, world: Path, make_project: Any, run_kedro: Any) -> Path:
    project = make_project(tmp_path_factory.mktemp("whole") / "project")
    run_kedro(project, params={"dataset": str(world), "seed_model": LONGER}, pipeline_names=["seed_training"])
    return project


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, "KILLED"), (signal.SIGKILL, "RUNNING")])
def test_a_stopped_command_goes_on_and_ends_with_the_same_weights(
    tmp_path: Path, world: Path, make_project: Any, never_stopped: Path, number: int, status: str
) -> None:
    import mlflow

    project = make_project(tmp_path / "stopped")
    text = ",".join([f"dataset={world}", *(f"seed_model.{key}={value}" for key, value in LONGER.items())])
    command = ["--pipelines=seed_training", f"--params={text}"]
    with started(project, *command) as process:
        deadline = time.monotonic() + 240
        while not list(project.glob("data/06_models/*/*/checkpoints/step_*")) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == (130 if number == signal.SIGTERM else -signal.SIGKILL), errors
    assert ("seed_model was stopped after step" in errors) == (number == signal.SIGTERM)
    assert "Traceback" not in errors
    client = mlflow.MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("s5").experiment_id
    assert [run.info.status for run in client.search_runs([experiment])] == [status]

    with started(project, *command) as process:
        _, errors = process.communicate(timeout=480)
    assert process.returncode == 0, errors
    (run,) = client.search_runs([experiment])
    assert run.info.status == "FINISHED"
    steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "seed_model.loss")]
    assert steps == list(range(30))

    pointers = [
        json.loads(next((p / "data/06_models/seed_model.json").glob("*/seed_model.json")).read_text())
        for p in (project, never_stopped)
    ]
    assert pointers[0]["resumed_from"]
    assert not pointers[1]["resumed_from"]
    assert pointers[0]["sha256"] == pointers[1]["sha256"]


def test_kedro_viz_shows_every_pipeline_with_layers_and_previews(finished: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # kedro-viz's own: it is built on deprecated parts of fastapi and omegaconf
        import fsspec
        from kedro_viz.api.rest.responses.save_responses import save_api_responses_to_fs
        from kedro_viz.server import load_and_populate_data

        load_and_populate_data(finished)
        save_api_responses_to_fs(str(tmp_path), fsspec.filesystem("file"), True)
    main = json.loads((tmp_path / "api/main").read_text())
    assert {pipeline["id"] for pipeline in main["pipelines"]} >= {"s4p_pretrain", "evaluation", "__default__"}
    layers = ["intermediate", "primary", "feature", "model_input", "models", "model_output", "reporting"]
    whole = json.loads((tmp_path / "api/pipelines/__default__").read_text())
    assert whole["layers"] == layers
    for pipeline in main["pipelines"]:
        assert json.loads((tmp_path / "api/pipelines" / pipeline["id"]).read_text())["layers"]
    previews = {}
    for node in whole["nodes"]:
        if node["type"] == "data":
            shown = json.loads((tmp_path / "api/nodes" / node["id"]).read_text())
            previews[node["name"]] = shown.get("preview_type") if shown.get("preview") else None
    assert previews["tile_manifest"] == previews["tile_scores"] == "TablePreview"
    assert (
        previews["selection_report"] == previews["confusion_matrix"] == previews["prediction_gallery"] == "ImagePreview"
    )
    assert previews["evaluation"] == previews["s4p_model"] == "JSONPreview"
