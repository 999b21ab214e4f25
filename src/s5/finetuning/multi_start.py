"""The network for several data sets before its first step: new, from a dense one, or with data sets added."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from s5.data.loader import SegmentationData
from s5.finetuning.multi_step import MultiConfig
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

logger = logging.getLogger(__name__)


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
