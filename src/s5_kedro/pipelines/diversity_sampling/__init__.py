"""The `diversity_sampling` pipeline."""

from s5_kedro.pipelines.diversity_sampling.pipeline import create_pipeline

__all__ = ["create_pipeline"]
