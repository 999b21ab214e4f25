"""The rows of the table: a mode with a seed each. One that is through is kept, and not trained again."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from s5.data.manifest import files_fingerprint
from s5.files import write_json
from s5_kedro.cards import dataset_entries
from s5_kedro.fingerprints import changes_results
from s5_kedro.given import given_model
from s5_kedro.parameters import configure, flatten
from s5_kedro.pipelines.multi_finetune.config import MultiFinetuneConfig
from s5_kedro.project import project_root
from s5_kedro.tracking import MetricsLog

if TYPE_CHECKING:
    from s5.data.loader import SegmentationData
    from s5.data.protocol import EvaluationProtocol

_FOLDER = "data/07_model_output/multi_finetune"
_NOT_OF_A_RUN = ("mode", "seeds", "split", "datasets")  # these are in the fingerprints, and in the terms


class MultiStudy:
    """Trainings on several data sets.

    Args:
        data: Name -> ingested data set.
        config: The parameter group `multi_finetune`.
        model, compute: The parameter groups of these names.
    """

    def __init__(
        self,
        data: Mapping[str, SegmentationData],
        config: MultiFinetuneConfig,
        model: Mapping[str, Any],
        compute: Mapping[str, Any],
    ) -> None:
        from s5.engine import ComputeConfig
        from s5.finetuning import DatasetTerm
        from s5.models import ModelConfig

        self.data, self.config = data, config
        entries = dataset_entries(config.datasets)
        self._terms = {name: DatasetTerm(entries[name].weight, entries[name].start) for name in data}
        self._model = configure(ModelConfig, model, "model")
        self._compute = configure(ComputeConfig, {**compute, "part": None}, "compute")
        self._init = None if config.init is None else start_pointer("multi_finetune.init", config.init)
        known = (self._init or {}).get("datasets", ())
        names_one = config.like is None or config.like in known
        self._like = config.like if names_one else start_pointer("multi_finetune.like", config.like)
        own = {key: value for key, value in asdict(config).items() if key not in _NOT_OF_A_RUN}
        groups = flatten({"multi_finetune": own, "model": dict(model), "compute": dict(compute)})
        content = [
            {name: of.fingerprint() + files_fingerprint(of.manifest) for name, of in data.items()},
            {name: asdict(term) for name, term in self._terms.items()},
            {key: value for key, value in groups.items() if changes_results(key)},
            [of if of is None or isinstance(of, str) else of["sha256"] for of in (self._init, self._like)],
        ]
        key = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]
        self.folder = project_root() / _FOLDER / key

    def run(self, mode: str, seed: int) -> dict[str, Any]:
        """Train a mode with a seed: {mode, seed, parameters, models: [{datasets, pointer, history}]}."""
        from s5.finetuning import train_mode

        path = self.folder / f"{mode}-{seed}.json"
        if not path.is_file():
            with MetricsLog(f"multi_finetune.{mode}.{seed}") as log:
                found = train_mode(
                    mode, self.data, self._terms, self._model, self.config.train, self._compute, name="multi_model",
                    project=project_root(), seed=seed, init=self._init, like=self._like, log=log,
                )  # fmt: skip
            models = [{"datasets": list(n), "pointer": r.pointer, "history": r.history} for n, r in found.items()]
            parameters = sum(_count(model["pointer"]) for model in models)
            write_json(path, {"mode": mode, "seed": seed, "parameters": parameters, "models": models})
        run: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return run


def start_pointer(parameter: str, path: str) -> dict[str, Any]:
    """The pointer to a finished model; one to weights alone says which data sets they are of.

    Raises:
        FileNotFoundError, ValueError: as `given_model`.
    """
    from s5.files import sha256_of
    from s5.models import read_metadata

    pointer = given_model(parameter, path)
    weights = pointer.pop("weights")
    if not pointer:
        known = read_metadata(weights)["architecture"].get("datasets", ())
        pointer = {"sha256": sha256_of(weights), "datasets": [name for name, _ in known]}
    return {**pointer, "path": str(weights)}


def _count(pointer: Mapping[str, Any]) -> int:
    """Weights of a stored network, without the running statistics of its batch norms."""
    from safetensors import safe_open

    from s5.models import open_pointer

    with safe_open(open_pointer(pointer, project_root()), framework="pt") as file:
        names = [name for name in file.keys() if ".running_" not in name and "num_batches" not in name]  # noqa: SIM118
        return sum(math.prod(file.get_slice(name).get_shape()) for name in names)


def evaluate_run(
    run: Mapping[str, Any],
    data: Mapping[str, SegmentationData],
    protocols: Mapping[str, EvaluationProtocol],
    config: MultiFinetuneConfig,
    compute: Mapping[str, Any],
) -> dict[str, Any]:
    """A row of the table: the scores of every data set by the network that a run has for it, and their mean mIoU.

    Each data set is measured as its own card's protocol has it.
    """
    from s5.engine import ComputeConfig, measure_model, resolve_compute
    from s5.models import load_model, open_pointer
    from s5.types import BandStatistics

    where = resolve_compute(configure(ComputeConfig, {**compute, "part": None}, "compute"))
    scores: dict[str, Any] = {}
    for made in run["models"]:
        weights = open_pointer(made["pointer"], project_root())
        for name in made["datasets"]:
            model, metadata = load_model(weights, task=name)
            _, found = measure_model(
                model.to(where.device), data[name].split(config.split),
                BandStatistics.from_dict(metadata["statistics"]), data[name].labels,
                batch_size=config.train.val_batch_size, compute=where, protocol=protocols[name],
            )  # fmt: skip
            scores[name] = {**found, "val_miou": made["pointer"]["val_mious"].get(name)}
    known = [of["miou"] for of in scores.values() if of["miou"] is not None]
    head = {"model": run["models"][0]["pointer"]["config"]["model"]["encoder"]}
    facts = {key: run[key] for key in ("mode", "seed", "parameters")}
    return {**head, **facts, "mean_miou": sum(known) / len(known) if known else None, "datasets": scores}
