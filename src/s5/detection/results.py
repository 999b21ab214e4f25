"""Detections of many scenes: made, kept as a table, and judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from s5.data.transforms import Normalizer
from s5.detection.annotations import Detections
from s5.detection.detector import create_multi_detector
from s5.detection.evaluation import PrecisionRecall, curve, evaluate, match_class
from s5.detection.prediction import PredictConfig, detect_scene
from s5.detection.scenes import CORNERS, Scene
from s5.engine import ComputeConfig, resolve_compute
from s5.models import read_metadata
from s5.models.store import load_network
from s5.progress import progress
from s5.types import BandStatistics

if TYPE_CHECKING:
    import pandas as pd

_IOUS: dict[str, float | str] = {"map50": 0.5, "map75": 0.75, "map": "0.5:0.95"}


def detect_scenes(
    weights: Path, scenes: Sequence[Scene], config: PredictConfig, compute: ComputeConfig, *, dataset: str | None = None
) -> dict[str, Detections]:
    """Image to what a stored detector finds there; it brings its own classes, band statistics and magnification.

    Args:
        dataset: Which of the detector's data sets the scenes are of; None takes the first.

    Raises:
        ValueError: the file is no detector of this project, or not one of that data set.
    """
    metadata = read_metadata(weights)
    if "magnify" not in metadata:
        raise ValueError(f"{weights}: is a network of another kind; expected a detector of the pipeline detection")
    whole, _ = load_network(weights, create_multi_detector)
    name = dataset or next(iter(whole.datasets))
    model = whole.for_dataset(name)
    resolved = resolve_compute(compute)
    model.to(resolved.device)
    statistics = BandStatistics.from_dict(metadata["datasets"][name]["statistics"])
    normalizer = Normalizer(statistics, resolved.device)
    return {
        scene.image: detect_scene(
            model, scene, metadata["datasets"][name]["classes"], normalizer, config, resolved,
            magnify=float(metadata["magnify"]), bands=len(statistics.bands), dataset=name,
        )
        for scene in progress(scenes, "detection", unit="scene")
    }  # fmt: skip


def detection_table(found: Mapping[str, Detections]) -> pd.DataFrame:
    """A row a detection: image, class, score and corners in pixels."""
    import pandas as pd

    rows = [
        (image, name, float(score), *corners.ravel())
        for image, one in found.items()
        for name, score, corners in zip(one.names, one.scores, one.corners, strict=True)
    ]
    kinds = dict.fromkeys(("score", *CORNERS), np.float64)
    return pd.DataFrame(rows, columns=["image", "class", "score", *CORNERS]).astype(kinds)


def detections_of(table: pd.DataFrame) -> dict[str, Detections]:
    """What `detection_table` was given, but for images without a detection."""
    return {
        str(image): Detections(
            rows[list(CORNERS)].to_numpy(np.float64).reshape(-1, 4, 2),
            tuple(rows["class"]),
            rows["score"].to_numpy(np.float64),
        )
        for image, rows in table.groupby("image", sort=True)
    }


def judge_detections(
    found: Mapping[str, Detections], scenes: Sequence[Scene], classes: Sequence[str], metric: str
) -> dict[str, Any]:
    """mAP at IoU 0.5, 0.75 and over 0.5 to 0.95, and AP of each class, in percent; None where there is no object."""
    truth = {scene.image: scene.annotations for scene in scenes}
    scores: dict[str, Any] = {"metric": metric, "scenes": len(scenes)}
    per_class: dict[str, dict[str, Any]] = {}
    for key, iou in _IOUS.items():
        values = evaluate(found, truth, classes, iou, metric)
        scores[key] = _percent(values["map"])
        per_class[key.replace("map", "ap")] = {name: _percent(value) for name, value in values["ap"].items()}
    objects = {name: sum(s.annotations.names.count(name) for s in scenes) for name in classes}
    return {**scores, "objects": objects, "per_class": per_class}


def judge_datasets(
    found: Mapping[str, Detections],
    scenes: Mapping[str, Sequence[Scene]],
    classes: Mapping[str, Sequence[str]],
    metric: str,
) -> dict[str, Any]:
    """`judge_detections` of the first data set; where there are more, theirs are in ``others``, by name."""
    first, *others = (judge_detections(found, scenes[name], classes[name], metric) for name in scenes)
    return {**first, "others": dict(zip(list(scenes)[1:], others, strict=True))} if others else first


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def curves_of(
    found: Mapping[str, Detections], scenes: Sequence[Scene], classes: Sequence[str], iou: float = 0.5
) -> dict[str, PrecisionRecall]:
    """The precision-recall curve of each class."""
    truth = {scene.image: scene.annotations for scene in scenes}
    return {name: curve(match_class(found, truth, name), iou) for name in classes}
