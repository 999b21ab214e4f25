"""What happens around a run: parameters checked, artefacts fingerprinted, everything tracked in MLflow."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.framework.project import pipelines
from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from s5_kedro.cards import dataset_entries
from s5_kedro.checks import check_parameters
from s5_kedro.datasets.atomic import FINGERPRINT, AtomicDataset
from s5_kedro.fingerprints import Fingerprint, changes_results, check_present, check_reused, expected_fingerprint
from s5_kedro.parameters import flatten
from s5_kedro.project import DEMO, find_card, project_root, set_project_root

_log = logging.getLogger(__name__)


class ParameterHooks:
    """Every parameter of a run is checked before anything is computed."""

    @hook_impl(tryfirst=True)
    def after_context_created(self, context: KedroContext) -> None:
        set_project_root(Path(context.project_path))

    @hook_impl(tryfirst=True)
    def before_pipeline_run(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """Raises ValueError or FileNotFoundError, naming the key, before MLflow opens a run."""
        check_parameters(pipeline, catalog.load("parameters"))


class FingerprintHooks:
    """Each artefact records what it was made from; one made from something else is not reused."""

    def __init__(self) -> None:
        self._catalog: CatalogProtocol | None = None
        self._made: dict[str, Fingerprint] = {}

    @hook_impl(tryfirst=True)
    def before_pipeline_run(self, run_params: Mapping[str, Any], pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """Raises where an artefact is missing (FileNotFoundError) or does not belong to this run (ValueError)."""
        self._catalog, self._made = catalog, {}
        check_present(pipeline, catalog, dict(pipelines))
        given = flatten(run_params.get("runtime_params") or {})
        check_reused(pipeline, catalog, only_missing=bool(run_params.get("only_missing_outputs")), given=given)

    @hook_impl
    def before_node_run(self, node: Node, catalog: CatalogProtocol) -> None:
        fingerprint = expected_fingerprint(node, catalog, self._made)
        self._made.update(dict.fromkeys(node.outputs, fingerprint))

    @hook_impl
    def before_dataset_saved(self, dataset_name: str) -> None:
        """The fingerprint is there first: an artefact that exists is never without one."""
        from s5.files import write_json

        dataset = self._catalog.get(dataset_name) if self._catalog is not None else None
        if isinstance(dataset, AtomicDataset) and dataset_name in self._made:
            write_json(dataset.saving_folder / FINGERPRINT, self._made[dataset_name].to_dict())


class TrackingHooks:
    """One MLflow run a command: tags, artefacts, and how it ended. kedro-mlflow opens it and logs the parameters."""

    def __init__(self) -> None:
        self._context: Any = None
        self._catalog: CatalogProtocol | None = None
        self._open_run: Any = None
        self._run_id: str | None = None
        self._earlier: str | None = None

    @hook_impl(tryfirst=True)
    def after_context_created(self, context: KedroContext) -> None:
        """MLflow's store lies in the project, wherever the command is typed."""
        self._context = context
        config = context.config_loader["mlflow"]
        server = config.setdefault("server", {})
        uri = server.get("mlflow_tracking_uri") or "sqlite:///mlflow.db"
        name = uri.removeprefix("sqlite:///")
        if uri.startswith("sqlite:///") and not Path(name).is_absolute():
            uri = f"sqlite:///{Path(context.project_path) / name}"
        server["mlflow_tracking_uri"] = uri
        context.config_loader["mlflow"] = config

    @hook_impl(tryfirst=True, specname="before_pipeline_run")
    def continue_run(self, run_params: Mapping[str, Any], catalog: CatalogProtocol) -> None:
        """The same command, killed before, goes on in its MLflow run."""
        from s5_kedro.tracking import OpenRun

        ours = {key: value for key, value in run_params.items() if key not in _CHANGING}
        parameters = flatten(catalog.load("parameters"))
        lasting = {key: value for key, value in parameters.items() if changes_results(key)}
        self._run_id, self._catalog = None, catalog
        self._open_run = OpenRun(project_root(), {**ours, "parameters": lasting}, parameters)
        self._earlier = self._open_run.earlier()
        if self._earlier and not run_params.get("only_missing_outputs"):
            _log.info(
                "This command was stopped before. Training goes on from its last checkpoint; stages that were through "
                "are done again, which --only-missing-outputs saves."
            )
        run = self._context.mlflow.tracking.run
        run.id = run.id or os.environ.get("MLFLOW_RUN_ID") or self._open_run.run_id()

    @hook_impl(trylast=True)
    def before_pipeline_run(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """Tags: the cards that the run is about, its seed, and the code."""
        import mlflow

        from s5_kedro.tracking import git_revision

        active = mlflow.active_run()
        if active is None:
            return
        self._run_id = active.info.run_id
        self._open_run.open(self._run_id)
        seed, revision = catalog.load("params:seed"), git_revision(project_root())
        tags = {"dataset": dataset_names(pipeline, catalog), "seed": seed, "git_revision": revision}
        if self._earlier not in (None, self._run_id):
            tags["resumes"] = self._earlier
        mlflow.set_tags(tags)

    @hook_impl
    def after_dataset_saved(self, dataset_name: str) -> None:
        """Plots, reports, scores and model pointers, without the tables that grow with the data."""
        import mlflow

        dataset = self._catalog.get(dataset_name) if self._catalog is not None else None
        if isinstance(dataset, AtomicDataset) and dataset.path.suffix in _ARTIFACTS and mlflow.active_run():
            mlflow.log_artifact(str(dataset.path), artifact_path=dataset.path.parents[2].name)

    @hook_impl
    def after_pipeline_run(self) -> None:
        if self._open_run is not None:
            self._open_run.close()

    @hook_impl(trylast=True)
    def on_pipeline_error(self, error: Exception) -> None:
        """kedro-mlflow has ended the run as FAILED; one that was stopped was KILLED, one that did its part is done."""
        status = {"Interrupted": "KILLED", "PartDone": "FINISHED"}.get(type(error).__name__)
        if self._run_id is not None and status is not None:
            import mlflow

            mlflow.MlflowClient().set_terminated(self._run_id, status)


# Run parameters that do not make a command another one.
_CHANGING = ("run_id", "only_missing_outputs", "runner", "runtime_params")  # the last are among the parameters
_ARTIFACTS = {".png", ".html", ".json", ".md", ".tex"}


def dataset_names(pipeline: Pipeline, catalog: CatalogProtocol) -> str:
    """The names of all cards of a run, joined by commas: more than one with `multi_finetune` and `detection.others`."""
    groups = [{name.partition(".")[0] for name in node.inputs} for node in pipeline.nodes]
    of_several = [_MULTI in group for group in groups]
    cards = [] if all(of_several) else [catalog.load("params:dataset")]
    if any("params:detection" in group for group in groups):
        cards += catalog.load("params:detection.others").values()
    if any(of_several):
        cards += [entry.card for entry in dataset_entries(catalog.load(f"{_MULTI}.datasets")).values()]
    return ", ".join(dict.fromkeys(_name_of(str(card)) for card in cards))


_MULTI = "params:multi_finetune"


def _name_of(dataset: str) -> str:
    """The name that a dataset card gives itself; the parameter where there is no such card (any more)."""
    from s5.data.card import load_card

    try:
        return DEMO if dataset == DEMO else load_card(find_card(dataset)).name
    except (ValueError, OSError):
        return dataset
