"""Average precision of rotated boxes as DOTA's devkit computes it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from s5.detection.annotations import Annotations, Detections, count_kinds, read_annotations, read_submission
from s5.detection.iou import quad_iou

logger = logging.getLogger(__name__)

METRICS = ("voc07", "area")
THRESHOLDS = {"0.5:0.95": tuple(round(0.5 + 0.05 * i, 2) for i in range(10))}


@dataclass(frozen=True)
class PrecisionRecall:
    """The curve of one class at one IoU: `recall` and `precision` [D] down the scores [D], and how many there are."""

    recall: NDArray[np.float64]
    precision: NDArray[np.float64]
    scores: NDArray[np.float64]
    num_truth: int


def evaluate_dota(
    detections: Path | str,
    labels: Path | str,
    images: Sequence[str] | Path | str,
    iou: float | str = 0.5,
    metric: str = "voc07",
) -> dict[str, Any]:
    """Average precision from files, as DOTA's devkit computes it.

    Args:
        detections: Folder of ``Task1_<class>.txt``.
        labels: Folder of labelTxt, a file an image; difficult objects count neither way.
        images: Image ids, or a file with an id a line. What lies elsewhere does not count.
        iou: What a detection must have more than to be right, in (0, 1); or ``"0.5:0.95"``, the mean over ten.
        metric: ``"voc07"``, the 11-point mean of VOC 2007, or ``"area"``, under the curve.

    Returns:
        ``{"ap": {class: fraction}, "map": fraction}`` over the classes that have a Task1 file or an object; one without
        an object has None and is left out of the mean.

    Raises:
        FileNotFoundError: no Task1 file, or no label file of an image.
        ValueError: an `iou` or `metric` out of range, or a line that cannot be read.
    """
    if isinstance(images, Path | str):
        images = Path(images).read_text(encoding="utf-8").split()
    found, of_files = read_submission(Path(detections))
    truth, bad = {}, []
    for image in images:
        path = Path(labels) / f"{image}.txt"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: there are no labels of image {image!r}; correct the list of images")
        truth[image], unusable = read_annotations(path)
        bad += unusable
    if bad:
        logger.warning("%s: %d boxes are left out (%s), such as %s", labels, len(bad), count_kinds(bad), bad[0].reason)
    return evaluate(found, truth, sorted({*of_files, *(n for one in truth.values() for n in one.names)}), iou, metric)


def evaluate(
    found: Mapping[str, Detections],
    truth: Mapping[str, Annotations],
    classes: Sequence[str],
    iou: float | str = 0.5,
    metric: str = "area",
) -> dict[str, Any]:
    """`evaluate_dota` for what is in memory; images are the keys of `truth`."""
    if metric not in METRICS:
        raise ValueError(f"metric: expected one of {', '.join(METRICS)}, got {metric!r}")
    thresholds = THRESHOLDS.get(str(iou)) or (_threshold(iou),)
    ap: dict[str, float | None] = {}
    for name in classes:
        matched = match_class(found, truth, name)
        each = [average_precision(curve(matched, threshold), metric) for threshold in thresholds]
        ap[name] = None if matched.num_truth == 0 else float(np.mean(each))
    known = [value for value in ap.values() if value is not None]
    return {"ap": ap, "map": float(np.mean(known)) if known else None}


def _threshold(iou: float | str) -> float:
    try:
        value = float(iou)
    except ValueError:
        value = float("nan")
    if not 0 < value < 1:
        raise ValueError(f"iou: expected a value in (0, 1) or '0.5:0.95', got {iou!r}")
    return value


@dataclass(frozen=True)
class Matched:
    """Detections of a class down the scores: the truth that each overlaps most, by how much, and whether it counts."""

    scores: NDArray[np.float64]
    best: NDArray[np.int64]
    overlap: NDArray[np.float64]
    difficult: NDArray[np.bool_]
    num_truth: int


def match_class(found: Mapping[str, Detections], truth: Mapping[str, Annotations], name: str) -> Matched:
    """Pair every detection of a class with the object of its image that it overlaps most, difficult ones included."""
    images = list(truth)
    boxes, boxes_in, flags = _gather([(truth[i].corners, truth[i].names, truth[i].difficult) for i in images], name)
    listed = [found.get(i, _NOTHING) for i in images]
    corners, corners_in, scores = _gather([(d.corners, d.names, d.scores) for d in listed], name)
    usable = np.isfinite(corners).all(axis=(1, 2)) & np.isfinite(scores)
    if not usable.all():
        logger.warning("%s: %d detections are not finite and are left out", name, int((~usable).sum()))
    order = np.argsort(-scores[usable], kind="stable")
    corners, corners_in, scores = corners[usable][order], corners_in[usable][order], scores[usable][order]
    overlap, best = np.zeros(len(corners)), np.full(len(corners), -1, dtype=np.int64)
    for image in np.unique(corners_in):
        mine, objects = np.flatnonzero(corners_in == image), np.flatnonzero(boxes_in == image)
        if len(objects):
            i, j = (grid.ravel() for grid in np.meshgrid(mine, objects, indexing="ij"))
            iou = quad_iou(torch.from_numpy(corners[i]), torch.from_numpy(boxes[j])).numpy().reshape(len(mine), -1)
            best[mine], overlap[mine] = objects[iou.argmax(1)], iou.max(1)
    return Matched(scores, best, overlap, flags.astype(bool), int((~flags.astype(bool)).sum()))


_NOTHING = Detections(np.zeros((0, 4, 2)), (), np.zeros(0))


def _gather(
    parts: list[tuple[NDArray[Any], tuple[str, ...], NDArray[Any]]], name: str
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Corners, place of the image and value of everything of one class."""
    chosen = [np.array([n == name for n in names], dtype=bool) for _, names, _ in parts]
    corners = [np.asarray(c, np.float64)[k] for (c, _, _), k in zip(parts, chosen, strict=True)]
    values = [np.asarray(v, np.float64)[k] for (_, _, v), k in zip(parts, chosen, strict=True)]
    place = [np.full(len(c), i, dtype=np.int64) for i, c in enumerate(corners)]
    if not parts:
        return np.zeros((0, 4, 2)), np.zeros(0, np.int64), np.zeros(0)
    return np.concatenate(corners).reshape(-1, 4, 2), np.concatenate(place), np.concatenate(values)


def curve(matched: Matched, threshold: float) -> PrecisionRecall:
    """Precision and recall down the scores: the first detection of an object is right, further ones are wrong."""
    hit = (matched.overlap > threshold) & (matched.best >= 0)
    ignored = hit & matched.difficult[matched.best] if len(matched.difficult) else np.zeros_like(hit)
    claims = np.flatnonzero(hit & ~ignored)
    _, first = np.unique(matched.best[claims], return_index=True)
    right = np.zeros(len(hit), dtype=bool)
    right[claims[first]] = True
    true_positives, false_positives = np.cumsum(right), np.cumsum(~right & ~ignored)
    with np.errstate(invalid="ignore"):
        precision = true_positives / np.maximum(true_positives + false_positives, np.finfo(np.float64).eps)
    recall = true_positives / max(matched.num_truth, 1)
    return PrecisionRecall(recall, precision, matched.scores, matched.num_truth)


def average_precision(found: PrecisionRecall, metric: str) -> float:
    """AP of a curve: ``"voc07"`` at recalls 0, 0.1, ..., 1, or ``"area"`` under its envelope (VOC 2010 and later)."""
    recall, precision = found.recall, found.precision
    if metric == "voc07":
        reached = [precision[recall >= level] for level in np.arange(0.0, 1.1, 0.1)]
        return float(np.mean([values.max() if len(values) else 0.0 for values in reached]))
    recall = np.concatenate([[0.0], recall, [1.0]])
    envelope = np.maximum.accumulate(np.concatenate([[0.0], precision, [0.0]])[::-1])[::-1]
    return float(np.sum(np.diff(recall) * envelope[1:]))
