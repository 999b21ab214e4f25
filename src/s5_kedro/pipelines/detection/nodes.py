"""Oriented objects: collected from the card, learnt, found, judged and shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from s5_kedro.given import given_model
from s5_kedro.parameters import configure
from s5_kedro.project import find_card, project_root
from s5_kedro.tracking import MetricsLog


def collect_objects(
    tile_manifest: Any,
    quarantine: Any,
    band_statistics: dict[str, Any],
    dataset: str,
    classes: list[str],
    others: dict[str, str],
    ingestion: dict[str, Any],
    seed: int,
) -> tuple[Any, Any, Any, dict[str, Any]]:
    """Read the boxes of all usable images, of this and the other data sets; returns tables of scenes, of boxes and of
    what is left out, and the classes and band statistics of each data set.
    """
    from s5.data.card import load_card
    from s5.data.ingest import IngestionConfig
    from s5.detection.scenes import collect_dataset, ingest_dataset, join_datasets
    from s5.types import BandStatistics

    card, statistics = load_card(find_card(dataset)), BandStatistics.from_dict(band_statistics)
    parts = [collect_dataset(card.name, card, tile_manifest, quarantine, statistics, classes=classes)]
    config = configure(IngestionConfig, ingestion, "ingestion")
    for name, path in others.items():
        work_dir = project_root() / "data/02_intermediate/detection_others" / name
        parts.append(ingest_dataset(name, find_card(path), config, seed=seed, work_dir=work_dir))
    found = join_datasets(parts)
    return found.scenes, found.boxes, found.quarantine, found.datasets


def train_detector(
    detection_scenes: Any,
    detection_boxes: Any,
    detection_datasets: dict[str, Any],
    head: str,
    init: str | None,
    model: dict[str, Any],
    train: dict[str, Any],
    predict: dict[str, Any],
    compute: dict[str, Any],
    seed: int,
) -> tuple[dict[str, Any], Any]:
    """Train the detector, on all data sets jointly; returns its pointer and history."""
    import pandas as pd

    from s5 import detection
    from s5.detection.scenes import split_datasets
    from s5.engine.compute import ComputeConfig
    from s5.models import ModelConfig

    with MetricsLog("detection") as log:
        result = detection.train_detector(
            split_datasets(detection_scenes, detection_boxes, detection_datasets),
            configure(ModelConfig, model, "model"),
            configure(detection.DetectorConfig, {"head": head, **train}, "detection.train"),
            configure(detection.PredictConfig, predict, "detection.predict"),
            configure(ComputeConfig, compute, "compute"),
            name="detector_model",
            project=project_root(),
            seed=seed,
            init=encoder_weights(init),
            log=log,
        )
    return result.pointer, pd.DataFrame(result.history)


def detect_objects(
    detection_scenes: Any,
    detection_boxes: Any,
    detection_datasets: dict[str, Any],
    detector_model: dict[str, Any],
    predict: dict[str, Any],
    evaluation: dict[str, Any],
    compute: dict[str, Any],
) -> tuple[Any, Any]:
    """Look for objects in the evaluated scenes; returns detections in pixels, and on Earth."""
    from s5.detection import PredictConfig, results
    from s5.detection.scenes import CORNERS
    from s5.engine.compute import ComputeConfig
    from s5.geo.objects import located_objects
    from s5.models import open_pointer

    weights = open_pointer(detector_model, project_root())
    look = configure(PredictConfig, predict, "detection.predict")
    found: dict[str, Any] = {}
    for name, scenes in evaluated_scenes(detection_scenes, detection_boxes, detection_datasets, evaluation).items():
        settings = configure(ComputeConfig, compute, "compute")
        found |= results.detect_scenes(weights, scenes, look, settings, dataset=name)
    table = results.detection_table(found)
    return table, located_objects(table, CORNERS)


def evaluate_detections(
    detection_scenes: Any,
    detection_boxes: Any,
    detection_datasets: dict[str, Any],
    detections: Any,
    detector_model: dict[str, Any],
    evaluation: dict[str, Any],
) -> dict[str, Any]:
    """Measure the detections against the boxes."""
    from s5.detection import results

    scenes = evaluated_scenes(detection_scenes, detection_boxes, detection_datasets, evaluation)
    classes = {name: facts["classes"] for name, facts in detection_datasets.items()}
    scores = results.judge_datasets(results.detections_of(detections), scenes, classes, evaluation["metric"])
    numbers = {key: scores[key] for key in ("map50", "map75", "map")}
    numbers |= {f"ap50.{name}": value for name, value in scores["per_class"]["ap50"].items()}
    numbers |= {f"{name}.map50": other["map50"] for name, other in scores.get("others", {}).items()}
    with MetricsLog("detection") as log:
        log(numbers, step=0)
    keys = ("seed", "steps_total", "selected_on")
    return {"split": evaluation["split"], **scores, **{key: detector_model.get(key) for key in keys}}


def plot_detections(
    detection_scenes: Any,
    detection_boxes: Any,
    detection_datasets: dict[str, Any],
    detections: Any,
    evaluation: dict[str, Any],
) -> Any:
    """Precision-recall curves, and detections beside the truth, of the first data set."""
    from s5.detection import results
    from s5.report.detection import plot_detections as plot
    from s5.types import BandStatistics

    every = evaluated_scenes(detection_scenes, detection_boxes, detection_datasets, evaluation)
    name = next(iter(every))
    scenes, facts = every[name], detection_datasets[name]
    found, classes = results.detections_of(detections), facts["classes"]
    curves = results.curves_of(found, scenes, classes)
    statistics = BandStatistics.from_dict(facts["statistics"])
    count, least = int(evaluation["gallery_scenes"]), float(evaluation["gallery_score"])
    return plot(scenes, found, curves, classes, statistics=statistics, count=count, least_score=least)


def evaluated_scenes(
    scenes: Any, boxes: Any, datasets: dict[str, Any], evaluation: dict[str, Any]
) -> dict[str, list[Any]]:
    """The scenes of the evaluated split, of each data set that has some.

    Raises:
        ValueError: there is none with boxes.
    """
    from s5.detection.config import DetectionEvaluationConfig
    from s5.detection.scenes import split_datasets

    config = configure(DetectionEvaluationConfig, evaluation, "detection.evaluation")
    chosen = {name: data.split(config.split) for name, data in split_datasets(scenes, boxes, datasets).items()}
    found = {name: of_split for name, of_split in chosen.items() if of_split}
    if not found:
        raise ValueError(
            f"detection.evaluation.split: no scene of {config.split!r} has boxes, only {sorted(set(scenes['split']))}; "
            "choose another, or give it boxes in the dataset card"
        )
    return found


def encoder_weights(init: str | None) -> Path | None:
    """The weights that `detection.init` names.

    Raises:
        FileNotFoundError, ValueError: as `given_model`.
    """
    return None if init is None else given_model("detection.init", init)["weights"]
