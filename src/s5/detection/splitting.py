"""Scenes of any size cut into overlapping windows, and the detections of the windows put together again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath

import numpy as np
import torch

from s5.detection.annotations import Annotations, Detections
from s5.detection.boxes import from_corners, signed_area
from s5.detection.iou import intersection_area
from s5.detection.nms import rotated_nms
from s5.types import Window

_PATCH = re.compile(r"(?P<image>.+)__(?P<rate>[\d.]+)__(?P<x>\d+)___(?P<y>\d+)")


def crop_annotations(annotations: Annotations, window: Window, *, min_visible: float = 0.7) -> Annotations:
    """The objects that reach into a window, in its pixels; those of which less than a share is seen become difficult.

    As DOTA's devkit splits (its share is 0.7 too), except that a cut object keeps the corners outside the window.

    Args:
        min_visible: Share of an object's area.
    """
    moved = annotations.corners - np.array([window.col, window.row], dtype=np.float64)
    seen = visible_shares(torch.from_numpy(moved), window.height, window.width).numpy()
    kept = np.flatnonzero(seen > 0)
    difficult = annotations.difficult[kept] | (seen[kept] < min_visible)
    return Annotations(moved[kept], tuple(annotations.names[i] for i in kept), difficult)


def visible_shares(corners: torch.Tensor, height: float, width: float) -> torch.Tensor:
    """Share of the area of each four corners [N, 4, 2] that lies in an image, as float64 [N]."""
    corners = torch.where((signed_area(corners) < 0)[:, None, None], corners.flip(1), corners).double()
    frame = corners.new_tensor([[0, 0], [width, 0], [width, height], [0, height]]).expand(len(corners), 4, 2)
    return intersection_area(corners, frame) / signed_area(corners).clamp(min=1e-12)


def patch_name(image: str, window: Window, rate: float = 1.0) -> str:
    """The name that DOTA's devkit gives a window: ``P0000__1__x___y``, with the magnification before its corner."""
    return f"{image}__{rate:g}__{window.col}___{window.row}"


def merge_patches(patches: Mapping[str, Detections], threshold: float = 0.1) -> dict[str, Detections]:
    """Detections by whole image from those by window (`patch_name`), duplicates removed by rotated NMS.

    Args:
        patches: Name of a window to its detections, in pixels of the window.
        threshold: IoU over which two of a class are one; DOTA's devkit takes 0.1 for Task 1.

    Raises:
        ValueError: a name that is no window's.
    """
    parts: dict[str, list[Detections]] = {}
    for name, found in patches.items():
        match = _PATCH.fullmatch(PurePath(name).name)
        if match is None:
            raise ValueError(f"{name}: expected the name of a window such as P0000__1__0___824")
        corners = (found.corners + np.array([int(match["x"]), int(match["y"])], dtype=np.float64)) / float(
            match["rate"]
        )
        parts.setdefault(match["image"], []).append(Detections(corners, found.names, found.scores))
    return {image: suppress(join(of_image), threshold) for image, of_image in parts.items()}


def join(parts: list[Detections]) -> Detections:
    """Several sets of detections of one image as one."""
    corners = np.concatenate([part.corners for part in parts]) if parts else np.zeros((0, 4, 2))
    scores = np.concatenate([part.scores for part in parts]) if parts else np.zeros(0)
    return Detections(corners, tuple(name for part in parts for name in part.names), scores)


def suppress(found: Detections, threshold: float) -> Detections:
    """Rotated NMS class by class; the highest score first."""
    known = sorted(set(found.names))
    labels = torch.tensor([known.index(name) for name in found.names], dtype=torch.int64)
    boxes = from_corners(torch.from_numpy(found.corners))
    kept = rotated_nms(boxes, torch.from_numpy(found.scores), threshold, labels).numpy()
    return Detections(found.corners[kept], tuple(found.names[i] for i in kept), found.scores[kept])
