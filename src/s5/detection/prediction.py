"""Objects of whole scenes: read in overlapping windows, found in each, and each told once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from s5.data.transforms import Normalizer
from s5.detection.annotations import Detections
from s5.detection.boxes import to_corners, to_le90
from s5.detection.detector import Detector
from s5.detection.nms import rotated_nms
from s5.detection.scenes import Scene, scene_windows
from s5.detection.splitting import join, suppress
from s5.engine import Compute
from s5.types import Window


@dataclass(frozen=True)
class PredictConfig:
    """How objects are looked for.

    Args:
        window: Side of the windows that a scene is read in, in pixels of the scene.
        overlap: Of neighbouring windows, in pixels; objects up to about this size are seen whole in one of them.
        score: Least score of a detection, in (0, 1).
        nms: IoU over which two of a class are one, in [0, 1).
        most: Detections kept of a window.
    """

    window: int = 256
    overlap: int = 64
    score: float = 0.05
    nms: float = 0.1
    most: int = 1000

    def __post_init__(self) -> None:
        for name in ("window", "most"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"predict.{name}: expected a whole number of at least 1, got {value!r}")
        if not isinstance(self.overlap, int) or not 0 <= self.overlap < self.window:
            raise ValueError(f"predict.overlap: expected 0..window - 1 ({self.window - 1}), got {self.overlap!r}")
        if not 0 < self.score < 1:
            raise ValueError(f"predict.score: expected a value in (0, 1), got {self.score!r}")
        if not 0 <= self.nms < 1:
            raise ValueError(f"predict.nms: expected a value in [0, 1), got {self.nms!r}")


def detect_scene(
    model: Detector,
    scene: Scene,
    classes: Sequence[str],
    normalizer: Normalizer,
    config: PredictConfig,
    compute: Compute,
    *,
    magnify: float,
    bands: int,
    dataset: str,
) -> Detections:
    """All objects of one scene, of any size, the highest score first.

    A detection counts from the window in whose middle part its centre lies; what is left double goes by rotated NMS.

    Args:
        magnify: The network's pixels for one of the scene's.
        dataset: Which of the network's data sets the scene is of.

    Raises:
        UnreadableRasterError: the scene cannot be read.
    """
    from s5.geo.raster import read_windows  # s5.detection is imported on machines without rasterio

    windows = scene_windows(scene, size=config.window, overlap=config.overlap)
    rows = _middles(sorted({w.row for w in windows}), config.window)
    cols = _middles(sorted({w.col for w in windows}), config.window)
    was_training = model.training
    model.eval()
    parts = []
    for window, image, valid in read_windows(Path(scene.image), windows, bands=bands):
        if not valid.any():
            continue
        image[:, ~valid] = 0
        pixels = torch.from_numpy(image[None] if image.dtype == np.uint8 else image[None].astype(np.float32))
        boxes, scores, labels = detect_image(
            model, normalizer, pixels, config, compute, magnify=magnify, dataset=dataset
        )
        boxes[:, 0] += window.col
        boxes[:, 1] += window.row
        mine = _in_middle(boxes, window, rows, cols)
        corners = to_corners(boxes[mine]).numpy()
        parts.append(Detections(corners, tuple(classes[i] for i in labels[mine].tolist()), scores[mine].numpy()))
    model.train(was_training)
    return suppress(join(parts), config.nms)


def detect_image(
    model: Detector,
    normalizer: Normalizer,
    image: Tensor,
    config: PredictConfig,
    compute: Compute,
    *,
    magnify: float,
    dataset: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes float64 [N, 5] (le90, in the image's pixels), scores and labels [N] of one raw image [1, C, H, W]."""
    with torch.inference_mode():
        scaled = normalizer.scale(compute.to_device(image))
        size = [max(1, round(side * magnify)) for side in scaled.shape[-2:]]
        if size != list(scaled.shape[-2:]):
            scaled = F.interpolate(scaled, size=size, mode="bilinear", align_corners=False)
        with compute.autocast():
            found = model({dataset: normalizer.ready(scaled)})[dataset]
        scores, place = found["scores"][0].flatten().topk(min(config.most, found["scores"][0].numel()))
        place, scores = place[scores >= config.score], scores[scores >= config.score]
        labels = place % model.datasets[dataset]
        boxes = to_le90(found["boxes"][0, place // model.datasets[dataset]].double())
        boxes[:, :4] /= magnify
        kept = rotated_nms(boxes, scores, config.nms, labels)
    return boxes[kept].cpu().clone(), scores[kept].double().cpu().clone(), labels[kept].cpu().clone()


def _middles(starts: list[int], size: int) -> dict[int, tuple[float, float]]:
    """Start of a window to where its middle part begins and ends: half-way through the overlaps, open at the rims."""
    cuts = [-np.inf, *((first + size + second) / 2 for first, second in pairwise(starts)), np.inf]
    return {start: (cuts[i], cuts[i + 1]) for i, start in enumerate(starts)}


def _in_middle(
    boxes: Tensor, window: Window, rows: dict[int, tuple[float, float]], cols: dict[int, tuple[float, float]]
) -> Tensor:
    (top, bottom), (left, right) = rows[window.row], cols[window.col]
    x, y = boxes[:, 0], boxes[:, 1]
    return (x >= left) & (x < right) & (y >= top) & (y < bottom)
