"""What every training stage shares: a network to start from, and weights with a pointer to end with."""

from __future__ import annotations

import copy
import json
import logging
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from s5.data.loader import SegmentationData
from s5.engine.compute import PRECISIONS, Compute, ComputeConfig, resolve_compute
from s5.engine.evaluation import evaluate_model
from s5.engine.loop import LoopConfig, Method, Validate, fit, run_key
from s5.engine.tuning import TuneConfig, apply_tuning
from s5.metrics import segmentation_scores
from s5.models import (
    ModelConfig,
    SegmentationModel,
    create_model,
    load_model,
    make_pointer,
    merge_lora,
    open_pointer,
    save_model,
)
from s5.models.store import Stored
from s5.seeds import seed_of
from s5.types import LogFn

logger = logging.getLogger(__name__)

N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True)
class TrainResult:
    """A trained network: `pointer` names its weights (design: {path, sha256, step, config, ...})."""

    pointer: dict[str, Any]
    history: list[dict[str, float]]


def start_model(
    config: ModelConfig,
    data: SegmentationData,
    *,
    seed: int,
    project: Path,
    init: Mapping[str, Any] | None = None,
) -> SegmentationModel:
    """Build the network of `config` for the classes and bands of `data`.

    Args:
        init: A pointer to weights of the same network to start from; None starts at random, or from
            ``config.encoder_weights``.

    Raises:
        ValueError: the weights of `init` belong to another network, other classes or other bands.
    """
    torch.manual_seed(seed_of(seed, "init", 0))
    model = create_model(**asdict(config), classes=data.labels.num_classes, bands=len(data.statistics.bands))
    if init is None:
        return model
    trained, metadata = load_model(open_pointer(dict(init), project))
    for what, found, wanted in (
        ("network", {**trained.architecture, "encoder_weights": None}, {**model.architecture, "encoder_weights": None}),
        ("classes", list(metadata["classes"]), list(data.labels.classes)),
    ):
        if found != wanted:
            raise ValueError(
                f"{init['path']}: these weights are of another {what} ({found}) than this run asks for ({wanted}); "
                "train them again with the same settings, or set init to null"
            )
    model.load_state_dict(trained.state_dict())
    return model


def validator(
    data: SegmentationData, compute: Compute, *, batch_size: int, split: str = "val"
) -> Callable[[nn.Module], float] | None:
    """mIoU on the validation split in percent, as the loop's score; None where there is no such split.

    Several processes share the tiles and all get the score of all of them.
    """
    if not data.has_split(split):
        return None
    reader = data.split(split)

    def score(model: nn.Module) -> float:
        matrix = evaluate_model(
            model, reader, data.statistics, data.labels, batch_size=batch_size, compute=compute
        ).matrix
        miou = segmentation_scores(matrix, data.labels.classes)["miou"]
        if miou is None:
            raise ValueError(f"split {split!r} has no labelled pixel to validate on; check its masks")
        return float(miou)

    return score


def train_network(
    method: Callable[[SegmentationModel, Compute], Method],
    data: SegmentationData,
    model: ModelConfig,
    loop: LoopConfig,
    compute: ComputeConfig,
    *,
    name: str,
    project: Path,
    seed: int,
    init: Mapping[str, Any] | None,
    settings: Mapping[str, Any],
    tune: TuneConfig,
    labeled_per_step: int,
    val_batch_size: int,
    log: LogFn,
    inputs: Mapping[str, Any] | None = None,
    adopt: Callable[[SegmentationModel, Path], None] | None = None,
) -> TrainResult:
    """Train a network by `method`, keep the best weights on ``val`` (the last without one) and point to them.

    Args:
        method: Makes the method from the network it is to train.
        name: The stage; weights go to ``<project>/data/06_models/<name>/<run key>/model.safetensors``.
        init: Pointer to weights to start from; its steps and labelled images count as seen.
        settings: The parameters of the run, kept in the pointer.
        tune: What of the network is trained; the weights kept are plain ones in any case.
        labeled_per_step: Labelled images that one step sees, over all processes.
        inputs: What the result depends on beside settings and data; part of the run key.
        adopt: How a network with a random start takes over the weights of `init`, which it gets as a file; None takes
            them all, which must be of the same network.
    """
    settings = {"model": asdict(model), **settings, "seed": seed}
    before = init or {}
    inputs = {"data": data.fingerprint(), "init": before.get("sha256"), **(inputs or {})}
    stage = project / "data" / "06_models" / name
    folder, resolved = run_folder(stage, settings, inputs, compute)
    network = start_model(model, data, seed=seed, project=project, init=init if adopt is None else None)
    if adopt is not None and init is not None:
        adopt(network, open_pointer(dict(init), project))
    if tune.what != "all" and init is None and model.encoder_weights is None:
        logger.warning("%s: tune.what=%s trains on a random encoder; give model.encoder_weights.", name, tune.what)
    apply_tuning(network, tune)
    network.to(resolved.device)
    if not resolved.is_sharded:  # FSDP2 takes contiguous weights alone
        network.to(memory_format=torch.channels_last)
    trained = copy.deepcopy(network).cpu() if resolved.is_sharded else network  # a network of whole weights
    return fit_and_save(
        method(network, resolved),
        trained,
        loop,
        compute,
        resolved,
        folder=folder,
        name=name,
        project=project,
        seed=seed,
        validate=validator(data, resolved, batch_size=val_batch_size),
        plain=_without_adapters,
        metadata=model_metadata(data),
        settings=settings,
        facts={
            "steps_total": loop.steps + int(before.get("steps_total", 0)),
            "labeled_seen": loop.steps * labeled_per_step + int(before.get("labeled_seen", 0)),
        },
        log=log,
    )


def fit_and_save(
    method: Method,
    trained: N,
    loop: LoopConfig,
    config: ComputeConfig,
    compute: Compute,
    *,
    folder: Path,
    name: str,
    project: Path,
    seed: int,
    validate: Validate | None,
    plain: Callable[[N], Stored],
    metadata: Mapping[str, Any],
    settings: Mapping[str, Any],
    facts: Mapping[str, Any],
    log: LogFn,
) -> TrainResult:
    """Run `method` to its end, write the weights that were best into `folder`, and point to them.

    Args:
        trained: The network that takes the best weights in the end, whole even where that which learns is sharded.
        plain: Makes of `trained` the network that is written.
        metadata: What the weights file says of itself.
        settings: The parameters of the run, kept in the pointer.
        facts: Further entries of the pointer.
    """
    state = fit(
        method,
        loop,
        name=name,
        seed=seed,
        folder=folder / "checkpoints",
        validate=validate,
        log=log,
        read_threads=config.read_threads,
        read_processes=config.read_processes,
        pin=compute.device.type == "cuda",
        group=compute.group,
        profile_steps=config.profile_steps,
    )
    if not compute.group.is_first:
        return TrainResult({}, state.history)
    trained.load_state_dict(state.best_weights)
    save_model(plain(trained), folder / "model.safetensors", metadata=metadata)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # the run is over: the next one starts afresh
    pointer = make_pointer(
        folder / "model.safetensors",
        root=project,
        step=state.best_step,
        config=json.loads(json.dumps({**settings, "precision": compute.precision})),  # as the file will hold them
        seed=seed,
        val_miou=state.best_score if math.isfinite(state.best_score) else None,
        selected_on="last" if validate is None else "val",
        resumed_from=state.resumed_from,
        **facts,
    )
    return TrainResult(pointer, state.history)


_HOW_OFTEN = ("checkpoint_every", "keep")  # of a stage; what is trained is the same whatever they are


def run_folder(
    stage: Path, settings: Mapping[str, Any], inputs: Mapping[str, Any], config: ComputeConfig
) -> tuple[Path, Compute]:
    """The folder of a run, and what it computes with: an unfinished run keeps its precision on any hardware."""
    own = resolve_compute(config)
    lasting = {
        key: {k: v for k, v in value.items() if k not in _HOW_OFTEN} if isinstance(value, Mapping) else value
        for key, value in settings.items()
    }
    runs = []
    for precision in (own.precision, *PRECISIONS) if config.precision == "auto" else (own.precision,):
        folder = stage / run_key(settings={**lasting, "precision": precision}, **inputs)
        if any((folder / "checkpoints").glob("step_*")):
            if precision != own.precision:
                logger.warning("%s: goes on in %s, as it was begun on other hardware.", stage.name, precision)
            return folder, replace(own, precision=precision)
        runs.append(folder)
    return runs[0], own


def _without_adapters(model: SegmentationModel) -> SegmentationModel:
    merge_lora(model)
    return model


def model_metadata(data: SegmentationData) -> dict[str, Any]:
    """What a weights file says of itself, so that it serves alone."""
    return {
        "classes": list(data.labels.classes),
        "ignore_index": data.labels.ignore_index,
        "background": data.labels.background,
        "statistics": data.statistics.to_dict(),
        "tile_size": data.tile_size,
    }
