"""Evidence of the pool's tiles, asked for once; the trust in it; what it does to pseudo-labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from s5_kedro.given import given_model
from s5_kedro.parameters import configure
from s5_kedro.project import find_card, project_root
from s5_kedro.records import segmentation_data
from s5_kedro.tracking import MetricsLog

_OFF = {"enabled": False}
_FOLDER = Path("data/05_model_input/priors")


def train_embedded(purification: dict[str, Any], seed: int) -> dict[str, Any]:
    """Train the small image-text model where it is to be asked; returns embedded_model, the pointer to it."""
    from s5.purification import config as configs
    from s5.purification import embedded

    config = configure(configs.PurificationConfig, purification, "purification")
    if not config.trains_embedded:
        return _OFF
    with MetricsLog("embedded") as log:
        pointer = embedded.train_embedded(project_root() / config.grounder.model, seed, config.embedded, log=log)
    return {"enabled": True, **pointer, "folder": config.grounder.model}


def ground_tiles(
    dataset: str,
    tile_manifest: Any,
    band_statistics: dict[str, Any],
    label_space: dict[str, Any],
    pretrain_pool: Any,
    embedded_model: dict[str, Any],  # noqa: ARG001 - made before it is asked; the folder is a parameter
    purification: dict[str, Any],
    compute: dict[str, Any],
) -> Any:
    """Ask about the tiles of the pool, and about those on which trust is estimated; returns tile_priors."""
    import pandas as pd

    from s5.purification import config as configs
    from s5.purification import priors

    config = configure(configs.PurificationConfig, purification, "purification")
    if not config.enabled:
        return priors.no_priors()
    data = segmentation_data(tile_manifest, band_statistics, label_space, compute)
    tiles = {"unlabeled": data.tiles(list(pretrain_pool["tile_id"])), config.fit.split: data.split(config.fit.split)}
    grounder, root = make_grounder(config, data.labels, dataset, compute), project_root()
    found = []
    for split, reader in tiles.items():
        grounded = priors.ground_tiles(
            reader, grounder, data.statistics, root / _FOLDER, config.priors, classes=data.labels.classes
        )
        found.append(grounded.index.assign(split=split, index=str(grounded.file.relative_to(root))))
    return pd.concat(found, ignore_index=True)


def fit_purifier(
    tile_manifest: Any,
    band_statistics: dict[str, Any],
    label_space: dict[str, Any],
    tile_priors: Any,
    seed_model: dict[str, Any],
    purification: dict[str, Any],
    compute: dict[str, Any],
    seed: int,
) -> dict[str, Any]:
    """Estimate how far the evidence can be trusted; returns purifier."""
    from s5.purification import config as configs
    from s5.purification import fitting

    config = configure(configs.PurificationConfig, purification, "purification")
    if not config.enabled:
        return _OFF
    data = segmentation_data(tile_manifest, band_statistics, label_space, compute)
    stage = open_stage(seed_model, data, compute)
    fitted = tiles_with_evidence(data, tile_priors, config.fit.split)
    priors = index_of(tile_priors, "unlabeled")
    return fitting.fit_purifier(config.rule, priors, stage, fitted, config.fit, seed=seed)


def assess_purifier(
    tile_manifest: Any,
    band_statistics: dict[str, Any],
    label_space: dict[str, Any],
    tile_priors: Any,
    purifier: dict[str, Any],
    seed_model: dict[str, Any],
    purification: dict[str, Any],
    compute: dict[str, Any],
    tau: float,
) -> tuple[dict[str, Any], Any]:
    """What the purifier does to the seed model's pseudo-labels: numbers and pictures."""
    from s5.purification import config as configs
    from s5.purification import fitting, purifiers
    from s5.report import purification as pictures

    config = configure(configs.PurificationConfig, purification, "purification")
    if not config.enabled:
        return _OFF, pictures.plot_nothing()
    data = segmentation_data(tile_manifest, band_statistics, label_space, compute)
    stage = open_stage(seed_model, data, compute)
    # without truth in the pool, the tiles that trust was estimated on must do, and the report says so
    split = "unlabeled" if fitting.has_truth(data, "unlabeled") else config.fit.split
    judged = tiles_with_evidence(data, tile_priors, split)
    rule = purifiers.make_purifier(purifier, project_root()).rule(stage.compute.device)
    report = {"enabled": True, "split": split, **fitting.report(stage, judged, rule, purifier, tile_priors, tau=tau)}
    with MetricsLog("purification") as log:
        log(fitting.headline(report), step=0)
    return report, pictures.plot_purification(stage, judged, rule, tau=tau, num_tiles=config.gallery_tiles)


def make_grounder(config: Any, labels: Any, dataset: str, compute: dict[str, Any]) -> Any:
    """What gives the evidence: the network that is named, else the grounder; refined where that is asked for.

    Raises:
        FileNotFoundError: the network is not there.
        ImportError: the grounder's libraries are not installed.
    """
    from s5.data.card import load_card
    from s5.engine import ComputeConfig, resolve_compute
    from s5.purification import create_grounder
    from s5.purification.network import NetworkGrounder

    grounding = with_local_paths(config.grounder, "model", "weights", "sam")
    grounder: Any
    if config.network is not None:
        resolved = resolve_compute(configure(ComputeConfig, compute, "compute"))
        grounder = NetworkGrounder(network_file(config.network), labels.classes, resolved)
    else:
        prompts = load_card(find_card(dataset)).prompts
        grounder = create_grounder(grounding, labels.classes, prompts, labels.background)
    if config.refine == "none":
        return grounder
    from s5.purification.refinement import Refined

    return Refined.load(grounder, with_local_paths(config.masks, "model"), grounding)


def with_local_paths(config: Any, *parts: str) -> Any:
    """A config whose `parts` name files of the project by their whole path, where they are there."""
    from dataclasses import replace

    given = {part: value for part in parts if (value := getattr(config, part))}
    return replace(config, **{part: str(path) for part, v in given.items() if (path := project_root() / v).exists()})


def network_file(network: str) -> Path:
    """The weights that `purification.network` names.

    Raises:
        FileNotFoundError, ValueError: as `given_model`.
    """
    weights: Path = given_model("purification.network", network)["weights"]
    return weights


def open_stage(seed_model: dict[str, Any] | None, data: Any, compute: dict[str, Any]) -> Any:
    """The seed model as the teacher.

    Raises:
        FileNotFoundError: there is no seed model yet.
    """
    from s5.engine import ComputeConfig, resolve_compute
    from s5.models import load_model, open_pointer
    from s5.purification.fitting import Stage

    if seed_model is None:
        raise FileNotFoundError("seed_model: there is none yet; make it with kedro run --pipelines=seed_training")
    resolved = resolve_compute(configure(ComputeConfig, compute, "compute"))
    model = load_model(open_pointer(seed_model, project_root()))[0]
    return Stage.of(model, data, resolved)


def tiles_with_evidence(data: Any, tile_priors: Any, split: str) -> Any:
    """The tiles of a split that were asked about, with what was said of them."""
    from s5.purification.priors import open_priors

    rows = tile_priors[tile_priors["split"] == split]
    tiles = data.tiles(list(rows["tile_id"]), split)
    return tiles, open_priors(project_root() / index_of(tile_priors, split), tiles.tile_ids)


def index_of(tile_priors: Any, split: str) -> str:
    """Path of the index of a split's priors, relative to the project."""
    return str(tile_priors.loc[tile_priors["split"] == split, "index"].iloc[0])
