"""The `detection` pipeline."""

from s5_kedro.pipelines.detection.pipeline import create_pipeline

__all__ = ["create_pipeline"]
