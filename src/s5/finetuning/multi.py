"""One network for several data sets, trained on all of them at once (S5, AAAI 2026, MoE-MDF; papers: 1.4, 1.5)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from s5.data.loader import SegmentationData
from s5.data.transforms import Normalizer
from s5.engine import (
    Compute,
    ComputeConfig,
    TrainResult,
    fit_and_save,
    launchable,
    model_metadata,
    run_folder,
    validator,
)
from s5.finetuning.labeled import LabeledTiles
from s5.finetuning.multi_start import start_multi_model
from s5.finetuning.multi_step import DatasetTerm, MultiConfig, MultiDatasetTraining
from s5.models import ModelConfig, open_pointer, read_metadata
from s5.types import LogFn, log_nothing

logger = logging.getLogger(__name__)

MODES = ("sdf", "mdf", "moe")
"""S5's Table 3: a network for each data set; one encoder for all, each with a decoder and a head; and with experts."""


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
