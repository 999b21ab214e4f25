"""Boxes of a dataset card in; a detector, its detections and their scores out."""

from kedro.pipeline import Pipeline, node

from s5_kedro.pipelines.detection.nodes import (
    collect_objects,
    detect_objects,
    evaluate_detections,
    plot_detections,
    train_detector,
)

_OBJECTS = ["detection_scenes", "detection_boxes", "detection_datasets"]


def create_pipeline() -> Pipeline:
    return Pipeline(
        [
            node(
                collect_objects,
                inputs=[
                    "tile_manifest",
                    "quarantine",
                    "band_statistics",
                    "params:dataset",
                    "params:detection.classes",
                    "params:detection.others",
                    "params:ingestion",
                    "params:seed",
                ],
                outputs=["detection_scenes", "detection_boxes", "detection_quarantine", "detection_datasets"],
                name="collect_objects",
            ),
            node(
                train_detector,
                inputs=[
                    *_OBJECTS,
                    "params:detection.head",
                    "params:detection.init",
                    "params:model",
                    "params:detection.train",
                    "params:detection.predict",
                    "params:compute",
                    "params:seed",
                ],
                outputs=["detector_model", "detector_history"],
                name="train_detector",
            ),
            node(
                detect_objects,
                inputs=[
                    *_OBJECTS,
                    "detector_model",
                    "params:detection.predict",
                    "params:detection.evaluation",
                    "params:compute",
                ],
                outputs=["detections", "detected_objects"],
                name="detect_objects",
            ),
            node(
                evaluate_detections,
                inputs=[
                    *_OBJECTS,
                    "detections",
                    "detector_model",
                    "params:detection.evaluation",
                ],
                outputs="detection_evaluation",
                name="evaluate_detections",
            ),
            node(
                plot_detections,
                inputs=[*_OBJECTS, "detections", "params:detection.evaluation"],
                outputs="detection_gallery",
                name="plot_detections",
            ),
        ]
    )
