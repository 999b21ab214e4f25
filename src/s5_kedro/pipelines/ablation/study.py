"""What every study does: networks from the same data and parameters, each trained once, each scored alike."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s5.data.manifest import files_fingerprint
from s5.files import write_json
from s5_kedro.fingerprints import changes_results
from s5_kedro.parameters import configure, flatten
from s5_kedro.tracking import MetricsLog

if TYPE_CHECKING:
    from s5.data.loader import SegmentationData

_FOLDER = "data/07_model_output/ablation"
# What a run does not depend on: which arms there are beside it, and where networks run.
_NOT_OF_A_RUN = ("ablation", "seed")
LAYER_COLUMNS = ("arm", "seed", "depth", "layer", "cka", "probe_miou")


class Study:
    """Runs of a study; one that is through is kept in ``data/07_model_output/ablation`` and not done again.

    Args:
        data: The ingested dataset.
        parameters: The parameter groups by name.
        project: The project folder.
    """

    def __init__(self, data: SegmentationData, parameters: Mapping[str, Any], project: Path) -> None:
        self.data, self.parameters, self.project = data, parameters, project
        own = {key: value for key, value in flatten(self.settings()).items() if changes_results(key)}
        self.fingerprint = data.fingerprint() + files_fingerprint(data.manifest)
        key = json.dumps([self.fingerprint, own], sort_keys=True, default=str)
        self.folder = project / _FOLDER / hashlib.sha256(key.encode()).hexdigest()[:16]

    def settings(self) -> dict[str, Any]:
        """The parameter groups that a run depends on."""
        return {key: value for key, value in self.parameters.items() if key not in _NOT_OF_A_RUN}

    def kept(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What `make` gave when it was first asked for under this name."""
        path = self.folder / f"{name.replace(':', '-').replace('/', '-')}.json"
        if not path.is_file():
            write_json(path, make())
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found

    def supervised(self, config: Any, name: str, seed: int, data: SegmentationData | None = None) -> dict[str, Any]:
        """Pointer to a network trained on the labelled tiles, of other data where that is given."""
        from s5.finetuning import train_supervised

        with MetricsLog(name.removeprefix("ablation_")) as log:
            result = train_supervised(
                data or self.data, self.model, config, self.compute, name=name, project=self.project, seed=seed, log=log
            )
        return result.pointer

    def scores(self, pointer: Mapping[str, Any]) -> dict[str, Any]:
        """Scores on ``evaluation.split``, and what they were reached with."""
        from s5.engine import evaluate_model, resolve_compute
        from s5.metrics import segmentation_scores
        from s5.models import load_model, open_pointer

        model, _ = load_model(open_pointer(pointer, self.project))
        where, asked, data = resolve_compute(self.compute), self.parameters["evaluation"], self.data
        counts = evaluate_model(
            model.to(where.device), data.split(asked["split"]), data.statistics, data.labels,
            batch_size=asked["batch_size"], compute=where,
        )  # fmt: skip
        scores = segmentation_scores(counts.matrix, data.labels.classes)
        classes = {f"iou_{name}": value for name, value in scores.pop("per_class_iou").items()}
        told = {"val_miou": pointer["val_miou"], "steps": pointer["steps_total"], "model": pointer["sha256"]}
        return {**scores, **told, "labeled_seen": pointer["labeled_seen"], **classes}

    @cached_property
    def model(self) -> Any:
        from s5.models import ModelConfig

        return configure(ModelConfig, self.parameters["model"], "model")

    @cached_property
    def compute(self) -> Any:
        from s5.engine import ComputeConfig

        return configure(ComputeConfig, {**self.parameters["compute"], "part": None}, "compute")


@contextmanager
def child_run(arm: str, seed: int) -> Iterator[None]:
    """A run of MLflow below that of the command, where there is one, with its tags."""
    import mlflow

    parent = mlflow.active_run()
    if parent is None:
        yield
        return
    tags = mlflow.MlflowClient().get_run(parent.info.run_id).data.tags
    own = {name: tags[name] for name in ("dataset", "git_revision") if name in tags}
    with mlflow.start_run(run_name=f"{arm}, seed {seed}", nested=True, tags={**own, "seed": seed}):
        mlflow.log_params({"ablation.arm": arm, "seed": seed})
        yield
