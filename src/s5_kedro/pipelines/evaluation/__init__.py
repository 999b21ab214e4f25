"""The `evaluation` pipeline."""

from s5_kedro.pipelines.evaluation.pipeline import create_pipeline

__all__ = ["create_pipeline"]
