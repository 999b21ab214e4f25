"""The `dataset_import` pipeline."""

from s5_kedro.pipelines.dataset_import.pipeline import create_pipeline

__all__ = ["create_pipeline"]
