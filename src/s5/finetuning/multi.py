"""One network for several data sets, trained on all of them at once (S5, AAAI 2026, MoE-MDF; papers: 1.4, 1.5)."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from s5.data.loader import Batch, SegmentationData, StepReader, read_batch
from s5.data.transforms import Normalizer
from s5.engine import (
    Compute,
    ComputeConfig,
    Learner,
    TrainingConfig,
    TrainResult,
    fit_and_save,
    launchable,
    model_metadata,
    run_folder,
    validator,
)
from s5.finetuning.labeled import LabeledTiles
from s5.models import (
    ModelConfig,
    MultiDatasetModel,
    SegmentationModel,
    add_dataset,
    create_model,
    from_dense,
    load_model,
    load_multi_model,
    open_pointer,
    read_metadata,
)
from s5.seeds import seed_of
from s5.types import LogFn, log_nothing

logger = logging.getLogger(__name__)

MODES = ("sdf", "mdf", "moe")
"""S5's Table 3: a network for each data set; one encoder for all, each with a decoder and a head; and with experts."""


@dataclass(frozen=True)
class DatasetTerm:
    """What one data set counts in a training.

    Args:
        weight: Factor on its loss in the sum of all, over 0.
        start: The step at which it joins; before, it is not computed at all.
    """

    weight: float = 1.0
    start: int = 0

    def __post_init__(self) -> None:
        if not (self.weight > 0 and math.isfinite(self.weight)):
            raise ValueError(f"weight: expected a factor over 0, got {self.weight!r}; leave the data set out instead")
        if not isinstance(self.start, int) or isinstance(self.start, bool) or self.start < 0:
            raise ValueError(f"start: expected a step of at least 0, got {self.start!r}")


@dataclass(frozen=True)
class MultiConfig(TrainingConfig):
    """Training on several data sets; `batch_size` is that of each of them.

    Args:
        part_features: Outputs of each feed-forward layer that belong to a data set's expert (the papers' 256); 0 shares
            the whole encoder.
        learns: ``"all"``, or ``"added"``: of a network that is started from, only the parts of data sets that it did
            not have.
    """

    part_features: int = 256
    learns: str = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.part_features, int) or isinstance(self.part_features, bool) or self.part_features < 0:
            raise ValueError(f"part_features: expected a whole number of at least 0, got {self.part_features!r}")
        if self.learns not in ("all", "added"):
            raise ValueError(f"learns: expected all or added, got {self.learns!r}")
        if self.tune.what != "all":
            raise ValueError(f"tune.what: several data sets train everything, got {self.tune.what!r}; see learns")


@dataclass(frozen=True)
class JoiningReader(StepReader):
    """A `StepReader` whose parts are read from a step of their own on.

    Args:
        starts: The first step of each part.
    """

    starts: tuple[int, ...]

    def __call__(self, step: int) -> tuple[Batch, ...]:
        there = zip(self.parts, self.starts, strict=True)
        return tuple(read_batch(source, indices(step)) for (source, indices), start in there if start <= step)


class MultiDatasetTraining:
    """A batch of each data set per step, their losses summed with weights: a `s5.engine.Method`.

    A data set's expert, decoder and head get gradients from its own batches alone. Where it has none in a step, they
    have no gradient, and neither AdamW, its decay, nor the average moves them.

    Args:
        tiles: The labelled tiles of the data sets that are trained.
        terms: What each of them counts.
    """

    def __init__(
        self,
        model: MultiDatasetModel,
        tiles: Mapping[str, LabeledTiles],
        terms: Mapping[str, DatasetTerm],
        config: MultiConfig,
        compute: Compute,
        *,
        warm: bool,
    ) -> None:
        self.config, self._tiles, self._terms = config, dict(tiles), terms
        self.read = JoiningReader(
            tuple(one.reading for one in self._tiles.values()), tuple(terms[name].start for name in self._tiles)
        )
        self.learner = Learner(
            model,
            config.optimizer,
            steps=config.steps,
            ema_decay=config.ema_decay,
            warm=warm,
            compute=compute,
            in_parts=True,
        )

    def taking_part(self, step: int) -> list[str]:
        """The data sets that have begun at `step`."""
        return [name for name in self._tiles if self._terms[name].start <= step]

    def step(self, step: int, batches: tuple[Batch, ...]) -> Mapping[str, torch.Tensor]:
        names, metrics = self.taking_part(step), {}
        network = self.learner.network.train()
        for name, batch in zip(names, batches, strict=True):
            tiles, losses = self._tiles[name], []
            for part in tiles.places.parts:
                with self.learner.part(last=name == names[-1] and part is tiles.places.parts[-1]):
                    loss = tiles.loss(step, batch, part, partial(network, task=name))
                    self.learner.backward(loss * (self._terms[name].weight / len(tiles.places.parts)))
                losses.append(loss.detach())
            metrics[f"loss_{name}"] = torch.stack(losses).mean()
        total = torch.stack([self._terms[name].weight * metrics[f"loss_{name}"] for name in names]).sum()
        return {"loss": total, **metrics, "lr": self.learner.update(step)}

    def evaluated(self) -> MultiDatasetModel:
        return self.learner.ema.average

    def images_per_step(self) -> int:
        return self.config.batch_size * len(self._tiles)

    def on_log(self, rows: list[dict[str, float]]) -> None:
        """Nothing can collapse here."""

    def state_dict(self) -> dict[str, Any]:
        return self.learner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.learner.load_state_dict(state)


@launchable
def train_multi(
    data: Mapping[str, SegmentationData],
    terms: Mapping[str, DatasetTerm],
    model: ModelConfig,
    config: MultiConfig,
    compute: ComputeConfig,
    *,
    name: str,
    project: Path,
    seed: int,
    init: Mapping[str, Any] | None = None,
    like: str | Mapping[str, Any] | None = None,
    log: LogFn = log_nothing,
) -> TrainResult:
    """Train one network on several data sets; the weights kept have the best mean mIoU over all their ``val`` splits.

    The run lasts `config.steps` steps; a data set with fewer tiles is gone through more often. A data set without a
    ``val`` split is left out of the mean; without any, the last weights are kept. One data set gives a plain network,
    as `s5.finetuning.train_supervised` does, where there are no experts and none was there before.

    Args:
        data: Name -> data set; their bands must be as many, their classes may differ.
        terms: Name -> weight and start; a data set that is not named counts 1 from the first step on.
        name: The stage; weights go to ``<project>/data/06_models/<name>/<run key>/model.safetensors``.
        init: Pointer to weights to start from: of a dense network, which every data set starts as (`from_dense`), or of
            one for several data sets, to which those of `data` that it has not are added.
        like: Of data sets that are added, what expert and decoder are copied from: the name of a data set of `init`,
            or a pointer to a dense network. By default the first one of `init`.

    Returns:
        The pointer has ``datasets``, and ``val_mious`` by data set; the history ``loss_<name>`` and
        ``val_miou_<name>``.

    Raises:
        ValueError: a data set without labelled tiles, or that starts after the last step; different numbers of bands;
            weights of another network; `learns` without anything added; sharded weights.
        Interrupted: the process was asked to stop; run again to go on.
    """
    terms = {one: terms.get(one, DatasetTerm()) for one in data}
    _check(data, terms, config, compute)
    network, learning = start_multi_model(data, model, config, seed=seed, project=project, init=init, like=like)
    settings = {
        "model": asdict(model),
        name: asdict(config),
        "datasets": {one: asdict(term) for one, term in terms.items()},
        "seed": seed,
    }
    started = {
        "init": (init or {}).get("sha256"),
        "like": like if like is None or isinstance(like, str) else like["sha256"],
    }
    inputs = {"data": {one: of.fingerprint() for one, of in data.items()}, **started}
    folder, resolved = run_folder(project / "data" / "06_models" / name, settings, inputs, compute)
    network.to(resolved.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    tiles = {
        one: LabeledTiles(
            data[one].split("labeled"),
            Normalizer(data[one].statistics, resolved.device),
            data[one].labels,
            config,
            resolved,
            seed=seed,
            stream=f"{name}/{one}",
        )
        for one in learning
    }
    method = MultiDatasetTraining(network, tiles, terms, config, resolved, warm=init is not None)
    is_plain = len(network.datasets) == 1 and not network.has_experts
    described = _described(data, init, project)
    seen = sum(config.batch_size * (config.steps - terms[one].start) for one in learning)
    result = fit_and_save(
        method,
        network,
        config.loop(),
        compute,
        resolved,
        folder=folder,
        name=name,
        project=project,
        seed=seed,
        validate=_validator(data, resolved, config.val_batch_size),
        plain=(lambda trained: trained.for_task(next(iter(data)))) if is_plain else (lambda trained: trained),
        metadata=next(iter(described.values())) if is_plain else {"datasets": described},
        settings=settings,
        facts={
            "datasets": list(network.datasets),
            "steps_total": config.steps + int((init or {}).get("steps_total", 0)),
            "labeled_seen": seen + int((init or {}).get("labeled_seen", 0)),
        },
        log=log,
    )
    return replace(result, pointer={**result.pointer, "val_mious": _best_scores(result)}) if result.pointer else result


def train_mode(
    mode: str,
    data: Mapping[str, SegmentationData],
    terms: Mapping[str, DatasetTerm],
    model: ModelConfig,
    config: MultiConfig,
    compute: ComputeConfig,
    **arguments: Any,
) -> dict[tuple[str, ...], TrainResult]:
    """Train the networks of a row of S5's Table 3: ``"sdf"`` one a data set, ``"mdf"`` and ``"moe"`` one for all.

    In ``"sdf"`` a data set gets as many batches as in the others: what it starts later is not trained at all.

    Args:
        mode: One of `MODES`.
        arguments: As `train_multi` takes them.

    Returns:
        The data sets of each network -> its result.

    Raises:
        ValueError: there is no such mode; else as `train_multi`.
    """
    if mode not in MODES:
        raise ValueError(f"mode: expected one of {', '.join(MODES)}, got {mode!r}")
    if mode != "sdf":
        config = config if mode == "moe" else replace(config, part_features=0)
        return {tuple(data): train_multi(data, terms, model, config, compute, **arguments)}
    results: dict[tuple[str, ...], TrainResult] = {}
    for name, of in data.items():
        term = terms.get(name, DatasetTerm())
        alone = replace(config, part_features=0, steps=config.steps - term.start)
        results[name,] = train_multi({name: of}, {}, model, alone, compute, **arguments)
    return results


def start_multi_model(
    data: Mapping[str, SegmentationData],
    model: ModelConfig,
    config: MultiConfig,
    *,
    seed: int,
    project: Path,
    init: Mapping[str, Any] | None = None,
    like: str | Mapping[str, Any] | None = None,
) -> tuple[MultiDatasetModel, list[str]]:
    """The network before its first step, and the names of the data sets that are trained.

    Without `init` a dense network is made at random, and every data set starts as it: the same start in every mode. A
    head that cannot be a copy is drawn for the data set's name, and is the same whatever data sets there are beside it.

    Raises:
        ValueError: as `train_multi`.
    """
    classes = {name: of.labels.num_classes for name, of in data.items()}
    bands = len(next(iter(data.values())).statistics.bands)
    torch.manual_seed(seed_of(seed, "init", 0))
    weights = None if init is None else open_pointer(dict(init), project)
    if weights is not None and "datasets" in read_metadata(weights)["architecture"]:
        network, metadata = load_multi_model(weights)
        _check_network(network.architecture, model, bands, config.part_features, weights)
        _check_classes(data, metadata, weights)
        added = [name for name in data if name not in network.datasets]
        for name in added:
            torch.manual_seed(seed_of(seed, f"init/{name}", 0))
            network = add_dataset(network, name, classes[name], like=_source(like, network, project))
        return network.train(), _learning(network, list(data), added, config)
    if config.learns == "added":
        raise ValueError("learns: 'added' needs init, a network for several data sets that some are added to")
    if weights is None:
        dense = create_model(**asdict(model), classes=next(iter(classes.values())), bands=bands)
    else:
        dense, _ = load_model(weights)
        _check_network(dense.architecture, model, bands, 0, weights)
    network = from_dense(dense, classes, part_features=config.part_features)
    for name, number in classes.items():
        if number != dense.num_classes or weights is None:
            torch.manual_seed(seed_of(seed, f"init/{name}", 0))
            _last_layer(network.heads[name]).reset_parameters()
    return network.train(), list(data)


def _learning(network: MultiDatasetModel, names: list[str], added: list[str], config: MultiConfig) -> list[str]:
    if config.learns == "all":
        resting = [name for name in network.datasets if name not in names]
        if resting:
            logger.warning(
                "The data sets %s of the start are not among those trained: what they share with the others will "
                "change and they will not follow; name them too, or set learns to 'added'.",
                resting,
            )
        return names
    if not added:
        raise ValueError(
            f"learns: 'added', but the start has all of {names} already; name a new data set, or set 'all'"
        )
    network.train_only(*added)
    return added


def _source(like: str | Mapping[str, Any] | None, network: MultiDatasetModel, project: Path) -> str | SegmentationModel:
    if like is None:
        return next(iter(network.datasets))
    return like if isinstance(like, str) else load_model(open_pointer(dict(like), project))[0]


def _last_layer(head: nn.Module) -> nn.Conv2d:
    layers = [layer for layer in head.modules() if isinstance(layer, nn.Conv2d)]
    return layers[-1]


def _check(
    data: Mapping[str, SegmentationData], terms: Mapping[str, DatasetTerm], config: MultiConfig, compute: ComputeConfig
) -> None:
    if not data:
        raise ValueError("datasets: expected at least one data set, got none")
    if compute.sharding == "fsdp" and compute.processes > 1:
        raise ValueError("compute.sharding: several data sets train with ddp, got 'fsdp'; set compute.sharding to ddp")
    bands = {name: len(of.statistics.bands) for name, of in data.items()}
    if len(set(bands.values())) > 1:
        raise ValueError(f"datasets: one encoder takes one number of bands, got {bands}; leave out those that differ")
    for name, term in terms.items():
        if term.start >= config.steps:
            raise ValueError(
                f"datasets.{name}.start: it would join at step {term.start} of {config.steps}; take an earlier one"
            )
    if min(term.start for term in terms.values()) > 0:
        raise ValueError("datasets: none of them starts at step 0; let start be 0 for at least one")


def _check_network(found: Mapping[str, Any], model: ModelConfig, bands: int, part_features: int, weights: Path) -> None:
    asked = {**asdict(model), "bands": bands, "part_features": part_features}
    found = {"part_features": 0, **found}
    for key in sorted(found.keys() & asked.keys()):
        if found[key] != asked[key]:
            raise ValueError(
                f"{weights}: these weights are of a network with {key} {found[key]!r}, this run asks for "
                f"{asked[key]!r}; set it to the same, or set init to null"
            )


def _check_classes(data: Mapping[str, SegmentationData], metadata: Mapping[str, Any], weights: Path) -> None:
    known = metadata["datasets"]
    for name, of in data.items():
        if name in known and list(known[name]["classes"]) != list(of.labels.classes):
            raise ValueError(
                f"{weights}: knows {name!r} with the classes {known[name]['classes']}, the data set has "
                f"{list(of.labels.classes)}; give the data set another name to add it"
            )


def _described(
    data: Mapping[str, SegmentationData], init: Mapping[str, Any] | None, project: Path
) -> dict[str, dict[str, Any]]:
    """What the weights file says of each data set, those of the start that are not trained here among them."""
    before = {} if init is None else read_metadata(open_pointer(dict(init), project)).get("datasets", {})
    return {**before, **{name: model_metadata(of) for name, of in data.items()}}


class _OfOneDataset(nn.Module):
    """A network for several data sets, as one of them sees it."""

    def __init__(self, model: nn.Module, task: str) -> None:
        super().__init__()
        self.model, self.task = model, task

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(x_BCHW, self.task)
        return logits


def _validator(
    data: Mapping[str, SegmentationData], compute: Compute, batch_size: int
) -> Callable[[nn.Module], dict[str, float]] | None:
    """mIoU in percent on every ``val`` split, and the mean of them; None where there is no such split."""
    scores = {name: validator(of, compute, batch_size=batch_size) for name, of in data.items()}
    lacking = [name for name, score in scores.items() if score is None]
    if lacking and len(lacking) < len(scores):
        logger.warning("%s: no val split; the best weights are those of the others' mean mIoU.", ", ".join(lacking))
    there = {name: score for name, score in scores.items() if score is not None}
    if not there:
        return None

    def score_all(model: nn.Module) -> dict[str, float]:
        found = {f"val_miou_{name}": score(_OfOneDataset(model, name)) for name, score in there.items()}
        return {"val_miou": sum(found.values()) / len(found), **found}

    return score_all


def _best_scores(result: TrainResult) -> dict[str, float]:
    """The val mIoU of each data set at the step whose weights were kept."""
    best = next((row for row in result.history if row["step"] == result.pointer["step"] - 1), {})
    return {key.removeprefix("val_miou_"): value for key, value in best.items() if key.startswith("val_miou_")}
