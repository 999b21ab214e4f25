"""The `entropy_scoring` pipeline."""

from s5_kedro.pipelines.entropy_scoring.pipeline import create_pipeline

__all__ = ["create_pipeline"]
