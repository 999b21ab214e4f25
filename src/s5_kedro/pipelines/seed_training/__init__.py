"""The `seed_training` pipeline."""

from s5_kedro.pipelines.seed_training.pipeline import create_pipeline

__all__ = ["create_pipeline"]
