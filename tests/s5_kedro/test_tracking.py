"""Metrics reach MLflow once each, and a killed run is told from a finished one."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kedro.pipeline import Pipeline

from s5_kedro.hooks import TrackingHooks
from s5_kedro.pipelines.ablation.study import child_run
from s5_kedro.tracking import MetricsLog, OpenRun, _birth, git_revision

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of MLflow's own import
    import mlflow

# MLflow's store with SQLAlchemy 2.1.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    mlflow.MlflowClient().create_experiment("tests", artifact_location=(folder / "artifacts").as_uri())
    yield uri
    mlflow.set_tracking_uri(before)


@pytest.fixture
def run(store: str) -> Iterator[Any]:
    experiment = mlflow.MlflowClient().get_experiment_by_name("tests")
    with mlflow.start_run(experiment_id=experiment.experiment_id) as active:
        yield active


def history(run: Any, key: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in mlflow.MlflowClient().get_metric_history(run.info.run_id, key)]


def test_metrics_are_prefixed_and_only_numbers_are_logged(run: Any) -> None:
    with MetricsLog("s4p") as log:
        log({"loss": 2.0, "val_miou": float("nan"), "flag": True}, 0)
        log({"loss": 1.0, "val_miou": 50.0}, 1)
    assert history(run, "s4p.loss") == [(0, 2.0), (1, 1.0)]
    assert history(run, "s4p.val_miou") == [(1, 50.0)]
    assert history(run, "s4p.flag") == []


def test_replayed_steps_are_not_logged_twice(run: Any) -> None:
    with MetricsLog("s4p") as log:
        for step in range(5):
            log({"loss": float(step), **({"val_miou": 50.0} if step == 1 else {})}, step)
    with MetricsLog("s4p") as resumed:  # a new process: the library begins with the steps before the checkpoint
        for step in range(8):
            resumed({"loss": float(step), **({"val_miou": 50.0} if step in (1, 6) else {})}, step)
    assert history(run, "s4p.loss") == [(step, float(step)) for step in range(8)]
    assert history(run, "s4p.val_miou") == [(1, 50.0), (6, 50.0)]


def test_a_long_history_is_written_whole(run: Any) -> None:
    with MetricsLog("s4p") as log:
        for step in range(1200):
            log({"a": 1.0, "b": 2.0}, step)
    assert len(history(run, "s4p.b")) == 1200


def test_what_was_logged_before_an_error_is_kept(run: Any) -> None:
    def train() -> None:
        with MetricsLog("s4p") as log:
            log({"loss": 1.0}, 0)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        train()
    assert history(run, "s4p.loss") == [(0, 1.0)]


def test_nothing_is_logged_without_a_run(store: str) -> None:
    with MetricsLog("s4p") as log:
        log({"loss": 1.0}, 0)
    assert mlflow.active_run() is None


class Interrupted(Exception):
    """Named as the engine's."""


@pytest.mark.parametrize(("error", "status"), [(Interrupted(), "KILLED"), (ValueError(), "FAILED")])
def test_an_interrupted_run_is_killed_not_failed(store: str, error: Exception, status: str) -> None:
    experiment = mlflow.MlflowClient().get_experiment_by_name("tests")
    active = mlflow.start_run(experiment_id=experiment.experiment_id)
    hooks = TrackingHooks()
    hooks._run_id = active.info.run_id
    mlflow.end_run("FAILED")  # as kedro-mlflow does first
    hooks.on_pipeline_error(error)
    assert mlflow.MlflowClient().get_run(active.info.run_id).info.status == status


def test_a_killed_command_is_continued_by_the_same_command_only(store: str, tmp_path: Path) -> None:
    experiment = mlflow.MlflowClient().get_experiment_by_name("tests")
    same = {"pipelines": ["s4p_pretrain"], "parameters": {"seed": 0}}
    run_id = mlflow.start_run(experiment_id=experiment.experiment_id).info.run_id
    OpenRun(tmp_path, same).open(run_id)
    mlflow.end_run("KILLED")
    assert OpenRun(tmp_path, same).run_id() == run_id
    assert OpenRun(tmp_path, {**same, "parameters": {"seed": 1}}).run_id() is None
    for status in ("FAILED", "FINISHED"):
        mlflow.MlflowClient().set_terminated(run_id, status)
        assert OpenRun(tmp_path, same).run_id() is None
    OpenRun(tmp_path, same).close()
    assert OpenRun(tmp_path, same).run_id() is None


def test_a_command_that_cannot_continue_a_run_says_which_one_it_resumes(store: str, tmp_path: Path) -> None:
    """A failed run is not continued, and MLflow would refuse other parameters in a run."""
    experiment = mlflow.MlflowClient().get_experiment_by_name("tests")
    same, cpu, gpu = {"pipelines": ["s4p_pretrain"]}, {"compute.device": "cpu"}, {"compute.device": "cuda"}
    run_id = mlflow.start_run(experiment_id=experiment.experiment_id).info.run_id
    OpenRun(tmp_path, same, cpu).open(run_id)
    mlflow.end_run("KILLED")
    assert (OpenRun(tmp_path, same, cpu).run_id(), OpenRun(tmp_path, same, cpu).earlier()) == (run_id, run_id)
    assert (OpenRun(tmp_path, same, gpu).run_id(), OpenRun(tmp_path, same, gpu).earlier()) == (None, run_id)
    mlflow.MlflowClient().set_terminated(run_id, "FAILED")
    assert (OpenRun(tmp_path, same, cpu).run_id(), OpenRun(tmp_path, same, cpu).earlier()) == (None, run_id)
    mlflow.MlflowClient().set_terminated(run_id, "FINISHED")
    assert OpenRun(tmp_path, same, cpu).earlier() is None


@pytest.mark.parametrize("earlier", [None, "before"])
def test_the_run_that_is_resumed_is_a_tag(
    run: Any, tmp_path: Path, earlier: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s5_kedro.hooks.project_root", lambda: tmp_path)
    hooks = TrackingHooks()
    hooks._open_run, hooks._earlier = OpenRun(tmp_path, {}), earlier
    catalog = SimpleNamespace(load={"params:dataset": "demo", "params:seed": 3}.get)
    hooks.before_pipeline_run(SimpleNamespace(nodes=[SimpleNamespace(inputs=["params:dataset"])]), catalog)
    tags = mlflow.MlflowClient().get_run(run.info.run_id).data.tags
    assert (tags["dataset"], tags["seed"], tags.get("resumes")) == ("demo", "3", earlier)


DATASETS = {
    "params:dataset": "demo",
    "params:seed": 0,
    "params:multi_finetune.datasets": {"a": "town/dataset.yml", "b": {"card": "coast", "weight": 2.0}, "c": "demo"},
    "params:detection.others": {"ships": "coast/dataset.yml", "gone": "nowhere.yml"},
}


@pytest.mark.parametrize(
    ("pipelines", "names"),
    [
        (["ingestion"], "demo"),
        (["multi_finetune"], "Town, Coast, demo"),
        (["ingestion", "multi_finetune"], "demo, Town, Coast"),
        (["detection"], "demo, Coast, nowhere.yml"),
        (["results_table"], "demo"),
    ],
)
def test_a_run_is_tagged_with_the_names_of_all_its_cards(
    run: Any, tmp_path: Path, pipelines: list[str], names: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cards' own names, also where a slice takes the group without its `datasets`."""
    monkeypatch.setattr("s5_kedro.project._root", [tmp_path])
    for name in ("Town", "Coast"):
        folder = tmp_path / name.lower()
        (folder / "images").mkdir(parents=True)
        splits = "splits: {unlabeled: {images: images}}"
        (folder / "dataset.yml").write_text(f"name: {name}\nclasses: [x, y]\nbands: [red, green, blue]\n{splits}\n")
    parts = [import_module(f"s5_kedro.pipelines.{name}").create_pipeline() for name in pipelines]
    whole = sum(parts, Pipeline([]))
    sliced = [whole, whole.only_nodes("evaluate_datasets")] if pipelines == ["multi_finetune"] else [whole]
    for pipeline in sliced:
        hooks = TrackingHooks()
        hooks._open_run = OpenRun(tmp_path, {})
        hooks.before_pipeline_run(pipeline, SimpleNamespace(load=DATASETS.get))
        assert mlflow.MlflowClient().get_run(run.info.run_id).data.tags["dataset"] == names


def test_a_run_of_a_study_has_the_tags_of_its_command(run: Any) -> None:
    mlflow.set_tags({"dataset": "Town", "seed": 0, "git_revision": "abc"})
    with child_run("scratch", 7):
        child = mlflow.active_run()
    tags = mlflow.MlflowClient().get_run(child.info.run_id).data.tags
    assert {name: tags[name] for name in ("dataset", "seed", "git_revision")} == {
        "dataset": "Town", "seed": "7", "git_revision": "abc",
    }  # fmt: skip
    assert tags["mlflow.parentRunId"] == run.info.run_id


def test_a_command_that_runs_beside_this_one_keeps_its_run(store: str, tmp_path: Path) -> None:
    from s5.files import write_json

    experiment = mlflow.MlflowClient().get_experiment_by_name("tests")
    run_id = mlflow.start_run(experiment_id=experiment.experiment_id).info.run_id
    mlflow.end_run("KILLED")
    opened = OpenRun(tmp_path, {})
    opened.open(run_id)
    left = json.loads(opened._path.read_text())
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        beside = {**left, "pid": other.pid, "born": _birth(other.pid)}
        write_json(opened._path, beside)
        assert (opened.run_id(), opened.earlier()) == (None, None)
        write_json(opened._path, {**beside, "born": "before the machine was started again/1234"})
        assert opened.run_id() == run_id
        write_json(opened._path, beside)
    assert opened.run_id() == run_id
    write_json(opened._path, {**left, "run_id": "gone"})
    assert opened.run_id() is None


def test_the_git_revision_is_a_commit_or_unknown(tmp_path: Path) -> None:
    assert git_revision(tmp_path) == "unknown"
    for command in (
        ["init", "-q"],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "a"],
    ):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    head = subprocess.run(["git", "-C", str(tmp_path), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert git_revision(tmp_path) == head.stdout.strip()


def test_the_store_lies_in_the_project(tmp_path: Path) -> None:
    loader: dict[str, Any] = {"mlflow": {"server": {"mlflow_tracking_uri": "sqlite:///mlflow.db"}}}
    TrackingHooks().after_context_created(SimpleNamespace(config_loader=loader, project_path=tmp_path))
    assert loader["mlflow"]["server"]["mlflow_tracking_uri"] == f"sqlite:///{tmp_path}/mlflow.db"
    loader["mlflow"]["server"]["mlflow_tracking_uri"] = "http://server"
    TrackingHooks().after_context_created(SimpleNamespace(config_loader=loader, project_path=tmp_path))
    assert loader["mlflow"]["server"]["mlflow_tracking_uri"] == "http://server"
