"""The `ablation` pipeline."""

from s5_kedro.pipelines.ablation.pipeline import create_pipeline

__all__ = ["create_pipeline"]
