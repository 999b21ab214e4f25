"""The `supervised` pipeline."""

from s5_kedro.pipelines.supervised.pipeline import create_pipeline

__all__ = ["create_pipeline"]
