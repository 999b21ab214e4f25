"""The `label_cleaning` pipeline."""

from s5_kedro.pipelines.label_cleaning.pipeline import create_pipeline

__all__ = ["create_pipeline"]
