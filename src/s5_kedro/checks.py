"""What can be wrong with a run's parameters, found before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from kedro.pipeline import Pipeline

from s5_kedro.cards import dataset_entries
from s5_kedro.given import given_model
from s5_kedro.parameters import GROUPS, PLAIN, check_names, config_of
from s5_kedro.pipelines.purification.nodes import network_file
from s5_kedro.pipelines.scene_inference.models import model_file
from s5_kedro.pipelines.scene_inference.nodes import zones_file
from s5_kedro.pipelines.scene_inference.scenes import find_scenes
from s5_kedro.project import DEMO, find_card


def check_parameters(pipeline: Pipeline, parameters: Mapping[str, Any]) -> None:
    """Check the names of all parameters, and the values of those that the pipeline's nodes take.

    Raises:
        ValueError: a name that does not exist, a value out of range, a network that cannot be built, a card that
            cannot be used.
        FileNotFoundError: a card, a model or weights that are not there.
    """
    check_names(parameters, [*GROUPS, *PLAIN])
    _check_seed(parameters["seed"])
    names = {name.removeprefix("params:") for name in pipeline.inputs() if name.startswith("params:")}
    if "dataset" in names:
        _check_card(parameters["dataset"])
    taken = {name.split(".")[0] for name in names}
    configs = {group: config_of(group, parameters[group]) for group in sorted(taken & set(GROUPS))}
    for group, check in _FURTHER.items():
        if group in configs and group in names:
            check(configs[group])
    if "noisy" in names and "dataset" in names:
        _check_sensors(configs["noisy"], parameters["dataset"])
    for group, config in configs.items():
        if "model" in configs and getattr(config, "tune", None) is not None:
            _check_tuning(configs["model"], config.tune, group)


def _check_seed(seed: Any) -> None:
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise ValueError(f"seed: expected a whole number of at least 0, got {seed!r}")


def _check_card(dataset: Any) -> None:
    from s5.data.card import load_card

    if dataset != DEMO:
        load_card(find_card(str(dataset)))


def _check_sensors(config: Any, dataset: Any) -> None:
    """The sensors that are pretrained together stand in the card."""
    if not config.has_sensors:
        return
    from s5.data.card import load_card

    known = {} if dataset == DEMO else load_card(find_card(str(dataset))).sensors
    for name in config.kept_and_other():
        if name not in known:
            raise ValueError(
                f"noisy.sensors: the dataset card has no sensor {name!r} (it has {', '.join(known) or 'none'}); name "
                "it and its bands there, under 'sensors'"
            )


def _check_network(config: Any) -> Any:
    """Build the network without memory for its weights."""
    import torch

    from s5.models import create_model

    try:
        with torch.device("meta"):
            return create_model(**{**asdict(config), "encoder_weights": None}, classes=2, bands=3)
    except ValueError as error:
        raise ValueError(f"model.{error}") from error


def _check_tuning(model: Any, tune: Any, group: str) -> None:
    """Adapters are for some encoders alone."""
    if tune.what != "lora":
        return
    from s5.engine import apply_tuning

    try:
        apply_tuning(_check_network(model), tune)
    except ValueError as error:
        raise ValueError(f"{group}.tune: {error}") from error


def _check_compute(config: Any) -> None:
    from s5.engine import resolve_compute

    resolve_compute(config)
    if config.backend == "ray":
        from s5.selection.on_ray import import_ray

        _check_extra(import_ray)


def _check_report(config: Any) -> None:
    if config.embedding_map == "umap":
        from s5.report.embedding_map import import_umap

        _check_extra(import_umap)


def _check_extra(find: Any) -> None:
    """An extra that is not installed is a mistake in the parameters, not a bug."""
    try:
        find()
    except ImportError as error:
        raise ValueError(str(error)) from error


def _check_init(config: Any) -> None:
    if config.init not in (None, "seed_model"):
        given_model("s4p.init", config.init)


def _check_purification(config: Any) -> None:
    if config.enabled and config.network is not None:
        network_file(config.network)


def _check_models(config: Any) -> None:
    for name, path in config.models.items():
        given_model(f"evaluation.models.{name}", path)


def _check_scene(config: Any) -> None:
    if config.images is not None:
        find_scenes(config.images, DEMO)
    if config.model is not None:
        model_file(config.model)
    zones_file(config.zones)


def _check_import(config: Any) -> None:
    """Both must be given, and neither has a default."""
    config.archive, config.folder  # noqa: B018 - they raise


def _check_submission(config: Any) -> None:
    if config.model is None:
        raise ValueError("submission.model: give a finished model with --params=submission.model=POINTER_OR_WEIGHTS")
    given_model("submission.model", config.model)


def _check_datasets(config: Any) -> None:
    if config.init is not None:
        given_model("multi_finetune.init", config.init)
    for entry in dataset_entries(config.datasets).values():
        _check_card(entry.card)


_FURTHER = {
    "dataset_import": _check_import,
    "submission": _check_submission,
    "model": _check_network,
    "compute": _check_compute,
    "selection_report": _check_report,
    "s4p": _check_init,
    "purification": _check_purification,
    "evaluation": _check_models,
    "scene": _check_scene,
    "multi_finetune": _check_datasets,
}
