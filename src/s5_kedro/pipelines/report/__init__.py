"""The `report` pipeline."""

from s5_kedro.pipelines.report.pipeline import create_pipeline

__all__ = ["create_pipeline"]
