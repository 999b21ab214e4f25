"""What S4P gains from each way to select its pool, at the same budget and steps."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s5.data.manifest import files_fingerprint
from s5.files import write_json
from s5_kedro.fingerprints import changes_results
from s5_kedro.parameters import configure, flatten
from s5_kedro.pipelines.ablation.config import SUPERVISED, AblationConfig
from s5_kedro.tracking import MetricsLog

if TYPE_CHECKING:
    import pandas as pd

    from s5.data.loader import SegmentationData

_log = logging.getLogger(__name__)
_FOLDER = "data/07_model_output/ablation"
# What a run does not depend on: which arms there are beside it, and where networks run.
_NOT_OF_A_RUN = ("ablation", "seed")


class SelectionStudy:
    """Runs of the study; one that is through is kept in ``data/07_model_output/ablation`` and not done again.

    Args:
        data: The ingested dataset.
        parameters: The parameter groups by name.
        project: The project folder.
    """

    def __init__(self, data: SegmentationData, parameters: Mapping[str, Any], project: Path) -> None:
        self.data, self.parameters, self.project = data, parameters, project
        groups = {key: value for key, value in parameters.items() if key not in _NOT_OF_A_RUN}
        own = {key: value for key, value in flatten(groups).items() if changes_results(key)}
        self.fingerprint = data.fingerprint() + files_fingerprint(data.manifest)
        key = json.dumps([self.fingerprint, own], sort_keys=True, default=str)
        self.folder = project / _FOLDER / hashlib.sha256(key.encode()).hexdigest()[:16]

    def run(self, arm: str, seed: int) -> dict[str, Any]:
        """Train and evaluate one arm with one seed; a row of the table of runs."""
        path = self.folder / f"{arm.replace(':', '-')}-{seed}.json"
        if path.is_file():
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return found
        with _child_run(arm, seed):
            pointer, pool = self._baseline(seed) if arm == SUPERVISED else self._pretrained(arm, seed)
            row = {"study": "selection", "arm": arm, "seed": seed, **self._scores(pointer), "pool": pool}
            with MetricsLog("ablation") as log:
                log({name: row[name] for name in ("miou", "macc", "mf1", "oa")}, 0)
        _log.info("ablation: %s with seed %d has %.2f mIoU", arm, seed, row["miou"])
        write_json(path, row)
        return row

    def _baseline(self, seed: int) -> tuple[dict[str, Any], int]:
        """As many steps and labelled images as the seed model and S4P take together."""
        from s5.finetuning import SupervisedConfig

        stages = [self.parameters[name] for name in ("seed_model", "s4p")]
        labeled = sum(stage["steps"] * stage["batch_size"] for stage in stages)
        values = dict(self.parameters["supervised"])
        if values.get("steps") in (None, "null"):
            values["steps"] = max(sum(s["steps"] for s in stages), math.ceil(labeled / values["batch_size"]))
        return self._supervised(configure(SupervisedConfig, values, "supervised"), "ablation_supervised", seed), 0

    def _pretrained(self, arm: str, seed: int) -> tuple[dict[str, Any], int]:
        from s5.semisup import S4PConfig, pretrain_s4p

        start = self._seed_model(seed)
        pool = self._select(arm, seed, start)
        with MetricsLog("s4p") as log:
            result = pretrain_s4p(
                self.data, pool, self._model, configure(S4PConfig, self.parameters["s4p"], "s4p"), self._compute,
                name="ablation_s4p", project=self.project, seed=seed, init=start, log=log,
            )  # fmt: skip
        return result.pointer, len(pool)

    def _seed_model(self, seed: int) -> dict[str, Any]:
        """One for all arms of a seed."""
        from s5.finetuning import SupervisedConfig

        path = self.folder / f"seed_model-{seed}.json"
        if not path.is_file():
            config = configure(SupervisedConfig, self.parameters["seed_model"], "seed_model")
            write_json(path, self._supervised(config, "ablation_seed_model", seed))
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found

    def _supervised(self, config: Any, name: str, seed: int) -> dict[str, Any]:
        from s5.finetuning import train_supervised

        with MetricsLog(name.removeprefix("ablation_")) as log:
            result = train_supervised(
                self.data, self._model, config, self._compute, name=name, project=self.project, seed=seed, log=log
            )
        return result.pointer

    def _select(self, arm: str, seed: int, pointer: Mapping[str, Any]) -> list[str]:
        """The pool of an arm: ids of its tiles."""
        from s5 import selection

        scores, embeddings, labeled = self._scored(pointer)
        chosen = AblationConfig(arms=arm, reference=arm).sampling(arm)
        values = {**self.parameters["diversity_sampling"], **chosen}
        config = configure(selection.SamplingConfig, values, "diversity_sampling", seed=seed)
        found = selection.sample_diverse(scores, embeddings, labeled, config, left_out=self._left_out)
        return list(found.pool["tile_id"])

    def _scored(self, pointer: Mapping[str, Any]) -> tuple[pd.DataFrame, Any, Any]:
        """Scores and embeddings by a seed model; parts that are there are not computed again."""
        from s5 import selection
        from s5.engine import resolve_compute
        from s5.models import load_model, open_pointer

        where = {key: self.parameters["compute"][key] for key in ("device", "precision", "threads")}
        config = configure(selection.ScoringConfig, self.parameters["entropy_scoring"], "entropy_scoring", **where)
        precision = resolve_compute(self._compute).precision
        key = selection.scoring_key(self.fingerprint, pointer["sha256"], config, precision)
        model, _ = load_model(open_pointer(pointer, self.project))
        data, unlabeled = self.data, self.data.split("unlabeled")
        folder = self.project / "data/04_feature/scoring" / key
        scores, embeddings = selection.score_in_parts(model, unlabeled, data.statistics, data.labels, config, folder)
        return scores, embeddings, selection.embed_tiles(model, data.split("labeled"), data.statistics, config)

    @cached_property
    def _left_out(self) -> pd.Series[str] | None:
        from s5 import selection

        config = configure(selection.QualityConfig, self.parameters["quality"], "quality")
        if config == selection.QualityConfig():
            return None
        measured = selection.measure_quality(self.data.split("unlabeled"), self.data.statistics)
        return selection.quality_reasons(measured, config)

    def _scores(self, pointer: Mapping[str, Any]) -> dict[str, Any]:
        from s5.engine import evaluate_model, resolve_compute
        from s5.metrics import segmentation_scores
        from s5.models import load_model, open_pointer

        model, _ = load_model(open_pointer(pointer, self.project))
        where, asked, data = resolve_compute(self._compute), self.parameters["evaluation"], self.data
        counts = evaluate_model(
            model.to(where.device), data.split(asked["split"]), data.statistics, data.labels,
            batch_size=asked["batch_size"], compute=where,
        )  # fmt: skip
        scores = segmentation_scores(counts.matrix, data.labels.classes)
        classes = {f"iou_{name}": value for name, value in scores.pop("per_class_iou").items()}
        told = {"val_miou": pointer["val_miou"], "steps": pointer["steps_total"], "model": pointer["sha256"]}
        return {**scores, **told, "labeled_seen": pointer["labeled_seen"], **classes}

    @cached_property
    def _model(self) -> Any:
        from s5.models import ModelConfig

        return configure(ModelConfig, self.parameters["model"], "model")

    @cached_property
    def _compute(self) -> Any:
        from s5.engine import ComputeConfig

        return configure(ComputeConfig, {**self.parameters["compute"], "part": None}, "compute")


@contextmanager
def _child_run(arm: str, seed: int) -> Iterator[None]:
    """A run of MLflow below that of the command, where there is one."""
    import mlflow

    if mlflow.active_run() is None:
        yield
        return
    with mlflow.start_run(run_name=f"{arm}, seed {seed}", nested=True):
        mlflow.log_params({"ablation.arm": arm, "seed": seed})
        yield
