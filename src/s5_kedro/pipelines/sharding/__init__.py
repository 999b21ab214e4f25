"""The `sharding` pipeline."""

from s5_kedro.pipelines.sharding.pipeline import create_pipeline

__all__ = ["create_pipeline"]
