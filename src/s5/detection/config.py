"""The `detection` parameter group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from s5.detection.detector import HEADS
from s5.detection.evaluation import METRICS
from s5.detection.prediction import PredictConfig
from s5.detection.training import DetectorConfig


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
