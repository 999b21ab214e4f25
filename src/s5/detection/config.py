"""The `detection` parameter group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from s5.data.transforms import PhotometryConfig
from s5.detection.augmentation import BoxGeometryConfig
from s5.detection.detector import HEADS
from s5.detection.evaluation import METRICS
from s5.detection.prediction import PredictConfig
from s5.engine import LoopConfig, OptimizerConfig


@dataclass(frozen=True)
class DetectorConfig:
    """Network head, training and its augmentation.

    Args:
        head: ``"rotated_fcos"``, light, or ``"oriented_rcnn"``, the papers'.
        channels: Width of the pyramid and of what follows it.
        head_convs: Convolutions in each tower of rotated FCOS.
        hidden: Width of Oriented R-CNN's box head.
        anchor_scale: Side of Oriented R-CNN's anchors, in strides of their level.
        proposals: Oriented R-CNN's, of an image.
        part_features: Outputs of each feed-forward layer of the encoder that belong to an expert of the data set; 0
            shares the whole encoder. Used where there are several data sets and the encoder is one of S5's.
        magnify: The network's pixels for one of the scene's: small objects need larger ones.
        steps: Optimiser steps.
        batch_size: Windows a step, of each data set.
        window: Side of the windows that training scenes are cut into, in pixels of the scene.
        overlap: Of neighbouring windows, in pixels.
        object_share: Share of a batch that is drawn from the windows with an object; the rest is drawn from all.
        mosaic: Probability that a window is put together from the quarters of four.
        ema_decay: Decay of the averaged weights, which are validated and kept; in [0, 1).
        photometry: Probability that a window also gets the strong colour augmentation.
        validate_every, checkpoint_every, log_every: Steps; 0 never validates, or writes checkpoints only when stopped.
        keep: Checkpoints kept, beside that of the best validation.
    """

    head: str = "rotated_fcos"
    channels: int = 64
    head_convs: int = 2
    hidden: int = 1024
    anchor_scale: float = 8.0
    proposals: int = 2000
    part_features: int = 256
    magnify: float = 2.0
    steps: int = 600
    batch_size: int = 8
    window: int = 192
    overlap: int = 64
    object_share: float = 0.75
    mosaic: float = 0.0
    ema_decay: float = 0.99
    photometry: float = 0.5
    validate_every: int = 200
    checkpoint_every: int = 200
    keep: int = 2
    log_every: int = 20
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    augmentation: BoxGeometryConfig = field(default_factory=BoxGeometryConfig)
    strong: PhotometryConfig = field(default_factory=PhotometryConfig)

    def __post_init__(self) -> None:
        if self.head not in HEADS:
            raise ValueError(f"head: expected one of {', '.join(HEADS)}, got {self.head!r}")
        for name in ("channels", "head_convs", "hidden", "proposals", "batch_size", "window"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}")
        if not isinstance(self.overlap, int) or not 0 <= self.overlap < self.window:
            raise ValueError(f"overlap: expected 0..window - 1 ({self.window - 1}), got {self.overlap!r}")
        if not 0 < self.magnify <= 16:
            raise ValueError(f"magnify: expected a factor in (0, 16], got {self.magnify!r}")
        if not isinstance(self.part_features, int) or self.part_features < 0:
            raise ValueError(f"part_features: expected a whole number of at least 0, got {self.part_features!r}")
        if not self.anchor_scale > 0:
            raise ValueError(f"anchor_scale: expected a positive number of strides, got {self.anchor_scale!r}")
        for name in ("object_share", "mosaic", "photometry"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected a share in [0, 1], got {getattr(self, name)!r}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay: expected a value in [0, 1), got {self.ema_decay!r}")
        self.loop()

    def loop(self) -> LoopConfig:
        return LoopConfig(self.steps, self.validate_every, self.checkpoint_every, self.keep, self.log_every)


@dataclass(frozen=True)
class DetectionEvaluationConfig:
    """On what and how a detector is judged.

    Args:
        split: Split whose scenes are looked at.
        metric: ``"area"``, under the curve, or ``"voc07"``, at 11 recalls (DOTA's devkit).
        gallery_scenes: Scenes in the gallery.
        gallery_score: Least score of the detections shown there.
    """

    split: str = "test"
    metric: str = "area"
    gallery_scenes: int = 4
    gallery_score: float = 0.3

    def __post_init__(self) -> None:
        if self.split not in ("test", "val", "labeled", "unlabeled"):
            raise ValueError(f"evaluation.split: expected one of test, val, labeled, unlabeled, got {self.split!r}")
        if self.metric not in METRICS:
            raise ValueError(f"evaluation.metric: expected one of {', '.join(METRICS)}, got {self.metric!r}")
        if self.gallery_scenes < 1:
            raise ValueError(f"evaluation.gallery_scenes: expected at least 1, got {self.gallery_scenes!r}")
        if not 0 <= self.gallery_score <= 1:
            raise ValueError(f"evaluation.gallery_score: expected a value in [0, 1], got {self.gallery_score!r}")


@dataclass(frozen=True)
class DetectionConfig:
    """What is detected and how.

    Args:
        classes: Names of the classes; empty takes all that the training scenes hold. Boxes of others are left out.
        others: Name -> dataset card of further data sets that the detector learns jointly.
        head: ``"rotated_fcos"`` or ``"oriented_rcnn"``.
        init: Pointer or weights of a segmentation network whose encoder the detector starts from, or None.
        train: Network head and training.
        predict: Windows, scores and NMS.
        evaluation: On what and how the detector is judged.
    """

    classes: tuple[str, ...] = ()
    others: Mapping[str, str] = field(default_factory=dict)
    head: str = "rotated_fcos"
    init: str | None = None
    train: DetectorConfig = field(default_factory=DetectorConfig)
    predict: PredictConfig = field(default_factory=PredictConfig)
    evaluation: DetectionEvaluationConfig = field(default_factory=DetectionEvaluationConfig)

    def __post_init__(self) -> None:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes: a name stands twice in {list(self.classes)}")
        if self.head not in HEADS:
            raise ValueError(f"head: expected one of {', '.join(HEADS)}, got {self.head!r}")
        if not isinstance(self.others, Mapping):
            raise ValueError(f"others: expected names with the path of a dataset card each, got {self.others!r}")
