"""The `scene_inference` pipeline."""

from s5_kedro.pipelines.scene_inference.pipeline import create_pipeline

__all__ = ["create_pipeline"]
