"""The `purification` pipeline."""

from s5_kedro.pipelines.purification.pipeline import create_pipeline

__all__ = ["create_pipeline"]
