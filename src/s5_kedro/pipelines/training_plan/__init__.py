"""The `training_plan` pipeline."""

from s5_kedro.pipelines.training_plan.pipeline import create_pipeline

__all__ = ["create_pipeline"]
