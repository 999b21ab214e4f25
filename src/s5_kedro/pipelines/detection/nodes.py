"""Oriented objects: collected from the card, learnt, found, judged and shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from s5_kedro.parameters import configure
from s5_kedro.project import find_card, find_file, project_root
from s5_kedro.tracking import MetricsLog


def collect_objects(tile_manifest: Any, quarantine: Any, dataset: str, classes: list[str]) -> tuple[Any, Any, Any]:
    """Read the boxes of all usable images; returns a table of scenes, one of boxes and one of what is left out."""
    import pandas as pd

    from s5.data.card import load_card
    from s5.detection.scenes import collect_scenes, to_tables

    images = tile_manifest[["image", "split"]].drop_duplicates().itertuples(index=False, name=None)
    held_out = set(quarantine.loc[quarantine["kind"] == "held_out", "path"])
    scenes, bad = collect_scenes(load_card(find_card(dataset)), images, classes=classes, held_out=held_out)
    rows = [(str(one.path), one.kind, one.reason) for one in bad]
    return *to_tables(scenes), pd.DataFrame(rows, columns=["path", "kind", "reason"])


def train_detector(
    detection_scenes: Any,
    detection_boxes: Any,
    band_statistics: dict[str, Any],
    classes: list[str],
    init: str | None,
    model: dict[str, Any],
    train: dict[str, Any],
    predict: dict[str, Any],
    compute: dict[str, Any],
    seed: int,
) -> tuple[dict[str, Any], Any]:
    """Train the detector; returns its pointer and history."""
    import pandas as pd

    from s5 import detection
    from s5.engine.compute import ComputeConfig
    from s5.models import ModelConfig

    with MetricsLog("detection") as log:
        result = detection.train_detector(
            detection_data(detection_scenes, detection_boxes, band_statistics, classes),
            configure(ModelConfig, model, "model"),
            configure(detection.DetectorConfig, train, "detection.train"),
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

    found = results.detect_scenes(
        open_pointer(detector_model, project_root()),
        evaluated_scenes(detection_scenes, detection_boxes, evaluation),
        configure(PredictConfig, predict, "detection.predict"),
        configure(ComputeConfig, compute, "compute"),
    )
    table = results.detection_table(found)
    return table, located_objects(table, CORNERS)


def evaluate_detections(
    detection_scenes: Any,
    detection_boxes: Any,
    detections: Any,
    detector_model: dict[str, Any],
    evaluation: dict[str, Any],
) -> dict[str, Any]:
    """Measure the detections against the boxes."""
    from s5.detection import results

    scenes = evaluated_scenes(detection_scenes, detection_boxes, evaluation)
    found, classes = results.detections_of(detections), detector_classes(detector_model)
    scores = results.judge_detections(found, scenes, classes, evaluation["metric"])
    numbers = {key: scores[key] for key in ("map50", "map75", "map")}
    numbers |= {f"ap50.{name}": value for name, value in scores["per_class"]["ap50"].items()}
    with MetricsLog("detection") as log:
        log(numbers, step=0)
    keys = ("seed", "steps_total", "selected_on")
    return {"split": evaluation["split"], **scores, **{key: detector_model.get(key) for key in keys}}


def plot_detections(
    detection_scenes: Any,
    detection_boxes: Any,
    band_statistics: dict[str, Any],
    detections: Any,
    detector_model: dict[str, Any],
    evaluation: dict[str, Any],
) -> Any:
    """Precision-recall curves, and detections beside the truth."""
    from s5.detection import results
    from s5.report.detection import plot_detections as plot
    from s5.types import BandStatistics

    scenes = evaluated_scenes(detection_scenes, detection_boxes, evaluation)
    found, classes = results.detections_of(detections), detector_classes(detector_model)
    curves = results.curves_of(found, scenes, classes)
    statistics = BandStatistics.from_dict(band_statistics)
    count, least = int(evaluation["gallery_scenes"]), float(evaluation["gallery_score"])
    return plot(scenes, found, curves, classes, statistics=statistics, count=count, least_score=least)


def detection_data(scenes: Any, boxes: Any, band_statistics: dict[str, Any], classes: list[str]) -> Any:
    """The library's record of the tables; classes are those given, or all that the training scenes hold."""
    from s5.detection import DetectionData
    from s5.detection.scenes import classes_of, from_tables
    from s5.types import BandStatistics

    known = tuple(classes) or classes_of(from_tables(scenes, boxes))
    return DetectionData(scenes, boxes, known, BandStatistics.from_dict(band_statistics))


def evaluated_scenes(scenes: Any, boxes: Any, evaluation: dict[str, Any]) -> list[Any]:
    """The scenes of the evaluated split.

    Raises:
        ValueError: there is none with boxes.
    """
    from s5.detection.config import DetectionEvaluationConfig
    from s5.detection.scenes import from_tables

    config = configure(DetectionEvaluationConfig, evaluation, "detection.evaluation")
    rows = scenes[scenes["split"] == config.split]
    if rows.empty:
        raise ValueError(
            f"detection.evaluation.split: no scene of {config.split!r} has boxes, only {sorted(set(scenes['split']))}; "
            "choose another, or give it boxes in the dataset card"
        )
    return from_tables(rows, boxes)


def detector_classes(pointer: dict[str, Any]) -> list[str]:
    """The classes that a detector knows."""
    from s5.models import open_pointer, read_metadata

    return list(read_metadata(open_pointer(pointer, project_root()))["classes"])


def encoder_weights(init: str | None) -> Path | None:
    """The weights that `detection.init` names.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if init is None:
        return None
    found = find_file(init)
    if found is None or not found.is_file():
        raise FileNotFoundError(
            f"detection.init: there is no file {init}; expected null, a model pointer (.json) or weights (.safetensors)"
        )
    if found.suffix != ".json":
        return found
    from s5.models import open_pointer

    return open_pointer(json.loads(found.read_text(encoding="utf-8")), project_root())
