"""Oriented objects: rotated boxes, a detector on the project's encoders, and mAP as DOTA's devkit computes it."""

from s5.detection.annotations import (
    Annotations,
    BadBox,
    Detections,
    read_annotations,
    read_submission,
    write_label_txt,
    write_submission,
)
from s5.detection.boxes import find_faults, from_corners, to_corners, to_le90
from s5.detection.config import DetectorConfig
from s5.detection.detector import Detector, create_detector, create_multi_detector
from s5.detection.evaluation import evaluate, evaluate_dota
from s5.detection.iou import quad_iou, rotated_iou, rotated_iou_matrix
from s5.detection.nms import rotated_nms
from s5.detection.prediction import PredictConfig, detect_scene
from s5.detection.roi_align import rotated_roi_align
from s5.detection.scenes import DetectionData, Scene, collect_scenes
from s5.detection.splitting import crop_annotations, merge_patches, patch_name
from s5.detection.training import train_detector

__all__ = [
    "Annotations",
    "BadBox",
    "DetectionData",
    "Detections",
    "Detector",
    "DetectorConfig",
    "PredictConfig",
    "Scene",
    "collect_scenes",
    "create_detector",
    "create_multi_detector",
    "crop_annotations",
    "detect_scene",
    "evaluate",
    "evaluate_dota",
    "find_faults",
    "from_corners",
    "merge_patches",
    "patch_name",
    "quad_iou",
    "read_annotations",
    "read_submission",
    "rotated_iou",
    "rotated_iou_matrix",
    "rotated_nms",
    "rotated_roi_align",
    "to_corners",
    "to_le90",
    "train_detector",
    "write_label_txt",
    "write_submission",
]
