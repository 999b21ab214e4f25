"""How good the models are on the test tiles."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from s5_kedro.parameters import configure
from s5_kedro.pipelines.evaluation.config import EvaluationConfig
from s5_kedro.pipelines.evaluation.models import chosen_models, open_model
from s5_kedro.records import protocol_of, segmentation_data
from s5_kedro.tracking import MetricsLog

_LOGGED = ("miou", "macc", "mf1", "oa", "fwiou", "boundary_miou")


def evaluate_models(
    tile_manifest: Any,
    band_statistics: dict[str, Any],
    label_space: dict[str, Any],
    supervised_model: dict[str, Any] | None,
    s4p_model: dict[str, Any] | None,
    finetuned_model: dict[str, Any] | None,
    evaluation: dict[str, Any],
    compute: dict[str, Any],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Measure every model on one split, as the card's protocol has it; returns the scores and the confusion counts."""
    config = configure(EvaluationConfig, evaluation, "evaluation")
    data = segmentation_data(tile_manifest, band_statistics, label_space, compute)
    protocol = protocol_of(label_space, config.protocol)
    trained = {"supervised": supervised_model, "s4p": s4p_model, "finetuned": finetuned_model}
    scores, counts = {}, {}
    for name, pointer in chosen_models(config, trained).items():
        model, statistics = open_model(name, pointer, data)
        reader = data.split(config.split)
        matrix, found = measure(model, reader, statistics, data.labels, config.batch_size, compute, protocol)
        counts[name] = matrix.tolist()
        scores[name] = {**found, **provenance(pointer)}
        with MetricsLog(f"evaluation.{name}") as log:
            log({key: found[key] for key in _LOGGED if found.get(key) is not None}, step=0)
    head = {"dataset": label_space["name"], "split": config.split, "protocol": protocol.to_dict()}
    return {**head, "models": scores}, {**head, "classes": list(data.labels.classes), "models": counts}


def plot_confusion(confusion_counts: dict[str, Any]) -> Any:
    """A confusion matrix for each model."""
    from s5 import report

    return report.plot_confusion(confusion_counts["models"], confusion_counts["classes"])


def plot_predictions(
    tile_manifest: Any,
    band_statistics: dict[str, Any],
    label_space: dict[str, Any],
    supervised_model: dict[str, Any] | None,
    s4p_model: dict[str, Any] | None,
    finetuned_model: dict[str, Any] | None,
    evaluation: dict[str, Any],
    compute: dict[str, Any],
) -> Any:
    """Image, truth and each model's prediction for a few tiles of the evaluated split."""
    from s5 import report

    config = configure(EvaluationConfig, evaluation, "evaluation")
    data = segmentation_data(tile_manifest, band_statistics, label_space, compute)
    protocol = protocol_of(label_space, config.protocol)
    trained = {"supervised": supervised_model, "s4p": s4p_model, "finetuned": finetuned_model}
    shown: dict[str, Any] = {}
    for name, pointer in chosen_models(config, trained).items():
        model, statistics = open_model(name, pointer, data)
        reader = data.split(config.split)
        shown[name] = gallery_of(name, model, reader, statistics, data.labels, config, compute, protocol)
    rows = merge_galleries(list(shown.values()))
    return report.plot_gallery(rows, data.labels, list(shown), statistics=data.statistics)


def measure(
    model: Any, reader: Any, statistics: Any, labels: Any, batch_size: int, compute: dict[str, Any], protocol: Any
) -> tuple[Any, dict[str, Any]]:
    """The confusion matrix of one model, int64 [K, K], and all its scores."""
    from s5.engine import ComputeConfig, measure_model, resolve_compute

    where = resolve_compute(configure(ComputeConfig, compute, "compute"))
    matrix, scores = measure_model(
        model.to(where.device), reader, statistics, labels, batch_size=batch_size, compute=where, protocol=protocol
    )
    return matrix, {**scores, "parameters": sum(weights.numel() for weights in model.parameters())}


def gallery_of(
    name: str, model: Any, reader: Any, statistics: Any, labels: Any, config: EvaluationConfig,
    compute: dict[str, Any], protocol: Any,
) -> list[Any]:  # fmt: skip
    """One model's rows of the gallery, normalised as that model was trained."""
    from s5.engine import ComputeConfig
    from s5.report import gallery_rows

    where = configure(ComputeConfig, compute, "compute")
    return gallery_rows(
        reader, {name: model}, statistics, labels, num_tiles=config.gallery_tiles, compute=where, protocol=protocol
    )


def merge_galleries(galleries: list[list[Any]]) -> list[Any]:
    """The same tiles, with the predictions of all models."""
    return [
        replace(rows[0], predictions={name: p for row in rows for name, p in row.predictions.items()})
        for rows in zip(*galleries, strict=True)
    ]


def provenance(pointer: dict[str, Any]) -> dict[str, Any]:
    """What a model took to make: null where its pointer does not say."""
    return {
        "seed": pointer.get("seed"),
        "steps": pointer.get("steps_total", pointer.get("step")),
        "labeled_seen": pointer.get("labeled_seen"),
        "selected_on": pointer.get("selected_on"),
    }
